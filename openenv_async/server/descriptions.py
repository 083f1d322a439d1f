"""What the HTTP door says about its environment and itself; needs no session."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from openenv_async.engine import Engine
from openenv_async.models import Format
from openenv_async.server.metrics import LoopWatch, prometheus_text, read_stats
from openenv_async.server.openapi import describe

__all__ = ["Descriptions"]


class Descriptions:
    """The handlers, over one engine. Each gives a body for the accepted format."""

    def __init__(self, engine: Engine, watch: LoopWatch) -> None:
        self._engine = engine
        self._watch = watch

    async def schema(self, request: Request, format: Format) -> Any:
        return self._engine.spec.schema

    async def metadata(self, request: Request, format: Format) -> Any:
        spec = self._engine.spec
        optional = ("readme_content", "author", "documentation_url")
        return {
            "name": spec.name,
            "description": spec.description,
            "version": spec.version,
            **{key: getattr(spec.cls, key, None) for key in optional},
        }

    async def health(self, request: Request, format: Format) -> Any:
        return {"status": "healthy"}

    async def openapi(self, request: Request, format: Format) -> Any:
        return describe(self._engine.spec)

    async def stats(self, request: Request, format: Format) -> Any:
        return self._stats()

    async def metrics(self, request: Request, format: Format) -> Response:
        text, media = prometheus_text(self._stats())
        return Response(text, media_type=media)

    def _stats(self) -> dict[str, Any]:
        self._watch.start()
        return read_stats(self._engine, self._watch)
