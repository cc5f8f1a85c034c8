"""What a network is fed with."""
