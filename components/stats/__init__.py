"""Statistics without files or frameworks."""
