"""Monitoring of released versions: drift, feedback, lineage, and retraining."""
