"""The manifest: one row per image file of a data source."""
