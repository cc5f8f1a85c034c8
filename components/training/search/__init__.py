"""Baseline comparison and hyperparameter search."""
