"""Tools for servers: child processes, load tests, the search for batching parameters."""
