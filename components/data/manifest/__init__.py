"""What is in a data source, one row an image file."""
