"""From a SavedModel to a version that answers."""
