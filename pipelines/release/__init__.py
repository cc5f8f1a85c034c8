"""Versions: finding one by name, listing them, and canary analysis."""
