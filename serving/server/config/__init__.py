"""The server's configuration files, version policies and errors."""
