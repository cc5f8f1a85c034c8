"""Programs around a server: child processes, load, the search for batching parameters."""
