"""Comparing networks and searching settings."""
