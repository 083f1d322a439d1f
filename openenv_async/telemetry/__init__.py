"""Telemetry: log records and W3C trace contexts."""
