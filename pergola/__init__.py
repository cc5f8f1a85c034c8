"""From a folder of images to a classifier that people can rely on."""
