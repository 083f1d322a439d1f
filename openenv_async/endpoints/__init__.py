"""Endpoints of servers: their addresses, access tokens and TLS settings."""
