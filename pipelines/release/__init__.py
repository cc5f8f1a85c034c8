"""Which version is meant, and which is live."""
