"""Lists of images with their labels, in the forms that people and tools write."""
