"""The HTTP routes of tasks: this server's own, and those of upstream's Task API.

Rules:

- Nothing here is of a session; a full server lists its tasks too.
- Upstream's routes name the environment; a name that is not of this one is ``target_not_found``.
- In upstream's, a split or index that is not there is a status of 400, and an environment without
  tasks is 501, as its clients expect.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from openenv_async.engine import Engine
from openenv_async.errors import (
    CallerError,
    InvalidModel,
    InvalidOption,
    PayloadTooLarge,
    TargetNotFound,
)
from openenv_async.models import Format
from openenv_async.protocol.upstream import Fields, scalar
from openenv_async.server.http_headers import MEDIA, sent_format
from openenv_async.tasks import MAX_PAGE, TaskBook, public_row

__all__ = ["TaskRoutes"]

_LONGEST: Final = 2**31 - 1
_KINDS: Final = ("train", "validation", "test")
"""Kinds of splits that upstream knows; every other split is of the second."""


class TaskRoutes:
    """The handlers. Each gives a body, or a response, for the accepted format.

    Args:
        engine: whose environment has the tasks.
        fields: reads the body of a request.
    """

    def __init__(
        self, engine: Engine, fields: Callable[[Request, Format], Awaitable[Fields]]
    ) -> None:
        self._engine = engine
        self._fields = fields

    async def splits(self, request: Request, format: Format) -> Response:
        return Response(
            await self._engine.listing.payload(None, 0, 0, format), media_type=MEDIA[format]
        )

    async def page(self, request: Request, format: Format) -> Response:
        start = _bound(request, "start", 0)
        stop = _bound(request, "stop", min(start + MAX_PAGE, _LONGEST))
        split = request.path_params["split"]
        payload = await self._engine.listing.payload(split, start, stop, format)
        return Response(payload, media_type=MEDIA[format])

    # -- upstream's -------------------------------------------------------------------------

    async def environments(self, request: Request, format: Format) -> Any:
        return [self._engine.spec.name]

    async def upstream_splits(self, request: Request, format: Format) -> Response:
        names = await self._asked(request, lambda book: book.splits)
        kinds = [{"name": name, "type": name if name in _KINDS else "validation"} for name in names]
        return self._response(kinds, format)

    async def upstream_count(self, request: Request, format: Format) -> Response:
        split = await self._split(request)
        count = await self._asked(request, lambda book: book.count(split))
        return self._response({"num_tasks": count}, format)

    async def upstream_task(self, request: Request, format: Format) -> Response:
        fields = await self._body(request)
        split, index = _text(fields, "split"), _number(fields, "index", required=True)
        row = await self._asked(request, lambda book: _row(book.get(split, index), index or 0))
        return self._response({"task": row}, format)

    async def upstream_tasks(self, request: Request, format: Format) -> Response:
        split = await self._split(request)
        rows = await self._asked(request, lambda book: self._rows(book, split, 0, MAX_PAGE))
        return self._response({"tasks": rows, "env_name": self._engine.spec.name}, format)

    async def upstream_range(self, request: Request, format: Format) -> Response:
        fields = await self._body(request)
        split = _text(fields, "split")
        start, stop = _number(fields, "start"), _number(fields, "stop")
        rows = await self._asked(request, lambda book: self._rows(book, split, start, stop))
        return self._response({"tasks": rows}, format)

    async def _asked(self, request: Request, call: Callable[[TaskBook], Any]) -> Any:
        name = self._engine.spec.name
        asked = request.path_params["env"]
        if asked.lower() != name.lower():
            raise TargetNotFound(f"there is no environment {asked!r:.80} here: this one is {name}")
        try:
            return await self._engine.listing.ask(call)
        except InvalidOption as exc:
            raise CallerError(exc.message, **exc.detail) from None

    def _rows(
        self, book: TaskBook, split: str, start: int | None, stop: int | None
    ) -> list[dict[str, Any]]:
        """Rows of a slice of a split, as Python counts them."""
        limit = self._engine.options.limits.max_message_size
        first, last, _ = slice(start, stop).indices(book.count(split))
        encode = self._engine.codecs("plain").encode_any
        rows: list[dict[str, Any]] = []
        size = 0
        for at in range(first, last, MAX_PAGE):
            tasks = book.page(split, at, min(at + MAX_PAGE, last))
            found = [_row(task, index) for index, task in enumerate(tasks, at)]
            size += len(encode(found))
            if size > limit:
                raise PayloadTooLarge(
                    f"the tasks {first} to {last} of {split!r} are over the limit of {limit:,}"
                    " bytes (Limits.max_message_size): ask for fewer at once",
                    size=size,
                    limit=limit,
                )
            rows += found
        return rows

    def _response(self, body: Any, format: Format) -> Response:
        octets = self._engine.codecs(format).encode_any(body)
        return Response(octets, media_type=MEDIA[format])

    async def _body(self, request: Request) -> tuple[Fields, Format]:
        sent = sent_format(request)
        return await self._fields(request, sent), sent

    async def _split(self, request: Request) -> str:
        return _text(await self._body(request), "split")


def _row(task: Any, index: int) -> dict[str, Any]:
    """A task in upstream's form: its public columns, ``id`` and ``index``."""
    row = public_row(task, index)
    return {**row.pop("data"), **row}


def _bound(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= _LONGEST):
        raise InvalidOption(
            f"{name} must be a whole number from 0 on, got {text!r:.40}", option=name
        )
    return int(text)


def _text(body: tuple[Fields, Format], name: str) -> str:
    value = scalar(body[0], name, body[1])
    if not isinstance(value, str):
        raise InvalidModel(f"{name} must be a text", type="string_type", loc=["body", name])
    return value


def _number(body: tuple[Fields, Format], name: str, required: bool = False) -> int | None:
    value = scalar(body[0], name, body[1])
    if value is None and not required:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidModel(f"{name} must be an integer", type="int_type", loc=["body", name])
    return value
