"""What comes after a release."""
