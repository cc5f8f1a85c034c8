"""A workspace's project of Great Expectations: the checks and their results, as its users know them."""
