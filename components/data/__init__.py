"""From a folder of images to checked, split and sharded training data."""
