"""Training and pairs from a command line."""
