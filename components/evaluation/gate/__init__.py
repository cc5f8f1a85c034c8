"""May a model ship?"""
