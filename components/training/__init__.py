"""From shards to a SavedModel."""
