"""The gate: can a model be released?"""
