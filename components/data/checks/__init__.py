"""Data checks, see validate.CHECKS."""
