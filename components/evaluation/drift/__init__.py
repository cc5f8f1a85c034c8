"""Drift detection and feedback after a release."""
