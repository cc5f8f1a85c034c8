"""Models in memory and what they answer, without a transport."""
