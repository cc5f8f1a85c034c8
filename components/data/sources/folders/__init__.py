"""Images in folders: which are classes and splits, and what lies in them."""
