"""From a folder of images to labelled, checked and split shards."""
