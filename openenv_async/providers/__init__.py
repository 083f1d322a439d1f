"""Providers: what starts the servers that a pool plays on, and ends them."""
