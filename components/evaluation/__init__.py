"""Evaluation, the gate, the report and drift detection."""
