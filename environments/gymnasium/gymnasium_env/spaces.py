"""Gymnasium spaces on the wire; see ``openenv_async.hosts.spaces``, where they live."""

from __future__ import annotations

from openenv_async.hosts.spaces import described, reader, schema, writer

__all__ = ["described", "reader", "schema", "writer"]
