"""What each step of the pipeline does: data, training, evaluation, release."""
