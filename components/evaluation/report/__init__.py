"""What a run found out, as one page."""
