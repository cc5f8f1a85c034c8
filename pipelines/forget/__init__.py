"""`pergola forget`: images removed from everything that a workspace holds."""
