"""Has the world moved since a model was released?"""
