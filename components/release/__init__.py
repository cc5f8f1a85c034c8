"""From a SavedModel to a released version."""
