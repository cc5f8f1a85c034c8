"""Measurements: each prints a table, or with --json one JSON object. Run them by scripts/bench NAME."""
