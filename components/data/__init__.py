"""From a folder of pictures to labelled, checked and split shards."""
