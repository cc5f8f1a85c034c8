"""Training: from shards to a SavedModel."""
