"""The page that every server has at ``/``: what it serves, and a look at it while it runs."""

from __future__ import annotations

from openenv_async.server.page.routes import IndexPage, ServerPage

__all__ = ["IndexPage", "ServerPage"]
