"""What is expected of data: rules, and who runs them."""
