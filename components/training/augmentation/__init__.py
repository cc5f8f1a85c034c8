"""Augmentation of the training images: the policy, its preview, offline augmentation."""
