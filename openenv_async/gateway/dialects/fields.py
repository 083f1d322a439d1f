"""The fields of a request: read by their types, or refused by their names.

A field that is missing and one that is ``null`` are the same. A refusal names the field by its
path, such as ``messages[3].content``, and its remedy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, NoReturn

import msgspec

from openenv_async.errors import CallRefused, ProtocolError, shown
from openenv_async.models.depth import check_json_depth
from openenv_async.types import MAX_DEPTH

__all__ = ["Fields", "listed", "mapping", "read_body", "refuse", "text", "thread_of"]

_THREAD_HEADERS: Final = (
    "session-id",
    "session_id",
    "thread-id",
    "x-codex-window-id",
    "x-codex-parent-thread-id",
    "x-openai-subagent",
    "x-claude-code-session-id",
    "x-claude-code-agent-id",
    "x-session-id",
    "x-session-affinity",
    "x-parent-session-id",
)
_TURN_METADATA: Final = "x-codex-turn-metadata"
_OF_TURN: Final = ("thread_source", "request_kind")
"""Its keys that say what a request is for; the others change with each turn."""
_decode: Final = msgspec.json.Decoder().decode


def refuse(field: str, why: str) -> NoReturn:
    """Raise ``CallRefused`` for a field.

    Args:
        field: its path.
        why: the fault and the remedy.
    """
    raise CallRefused(f"{field} {why}", field=field)


def read_body(body: bytes) -> Fields:
    """Return the fields of a body.

    Raises:
        CallRefused: it is not a JSON object, or is nested too deep.
    """
    try:
        check_json_depth(body, MAX_DEPTH)
        read = _decode(body)
    except (msgspec.DecodeError, ProtocolError, UnicodeDecodeError, RecursionError) as exc:
        raise CallRefused(f"the body is not JSON that can be read: {exc}", field="body") from exc
    if not isinstance(read, dict):
        raise CallRefused(f"the body is {shown(read)}: send a JSON object", field="body")
    return Fields(read)


def text(value: Any, field: str) -> str:
    """Return a value that must be a text."""
    if not isinstance(value, str):
        refuse(field, f"is {shown(value)}: give a text")
    return value


def listed(value: Any, field: str) -> list[Any]:
    """Return a value that must be a list."""
    if not isinstance(value, list):
        refuse(field, f"is {shown(value)}: give a list")
    return value


def mapping(value: Any, field: str) -> dict[str, Any]:
    """Return a value that must be an object."""
    if not isinstance(value, dict):
        refuse(field, f"is {shown(value)}: give an object")
    return value


def thread_of(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers by which agents name their run and the conversation in it.

    Of a header that is JSON they are the keys that last, such as
    ``x-codex-turn-metadata.request_kind``.
    """
    found = {name: headers[name] for name in _THREAD_HEADERS if name in headers}
    if _TURN_METADATA in headers:
        try:
            told = _decode(headers[_TURN_METADATA])
        except (ValueError, RecursionError):
            return found  # it says nothing that is needed
        for name in _OF_TURN:
            if isinstance(told, dict) and isinstance(told.get(name), str):
                found[f"{_TURN_METADATA}.{name}"] = told[name]
    return found


class Fields:
    """The fields of one request; each is taken once, and the rest is left out with a reason.

    Attributes:
        rest: fields that nothing has taken yet.
        left_out: fields that are not passed on, each with a reason.
    """

    __slots__ = ("left_out", "rest")

    def __init__(self, rest: dict[str, Any]) -> None:
        self.rest = rest
        self.left_out: dict[str, str] = {}

    def take(self, name: str) -> Any:
        """Return a field's value, ``None`` where there is none."""
        return self.rest.pop(name, None)

    def flag(self, name: str) -> bool:
        """Return a field that is true or false, false where there is none."""
        value = self.rest.pop(name, None)
        if value is not None and not isinstance(value, bool):
            refuse(name, f"is {shown(value)}: give true or false")
        return bool(value)

    def text(self, name: str) -> str | None:
        """Return a field that is a text."""
        value = self.rest.pop(name, None)
        return value if value is None else text(value, name)

    def list(self, name: str) -> list[Any]:
        """Return a field that is a list, empty where there is none."""
        value = self.rest.pop(name, None)
        return [] if value is None else listed(value, name)

    def mapping(self, name: str) -> dict[str, Any]:
        """Return a field that is an object, empty where there is none."""
        value = self.rest.pop(name, None)
        return {} if value is None else mapping(value, name)

    def number(self, name: str) -> float | None:
        """Return a field that is a number, an integer as it is."""
        value = self.rest.pop(name, None)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            refuse(name, f"is {shown(value)}: give a number")
        return value

    def count(self, name: str) -> int | None:
        """Return a field that is an integer above 0."""
        value = self.rest.pop(name, None)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            refuse(name, f"is {shown(value)}: give an integer above 0")
        return int(value)

    def leave(self, field: str, why: str) -> None:
        """Note that a field is not passed on."""
        self.left_out[field] = why

    def leave_rest(self, reasons: Mapping[str, str], refused: Mapping[str, str]) -> None:
        """Leave out all that is still there.

        Args:
            reasons: of fields that are known; another one is noted as unknown.
            refused: fields that cannot be left out since they change the answer, with the remedy;
                one that is false, 0 or empty asks for nothing and is passed over.

        Raises:
            CallRefused: one of the refused fields asks for something.
        """
        for name, value in self.rest.items():
            if value is None:
                continue
            if name in refused:
                if value or isinstance(value, str):
                    refuse(name, f"is not served by the gateway: {refused[name]}")
            else:
                self.left_out[name] = reasons.get(name, "unknown to the gateway")
        self.rest = {}

    def numbers(self, names: Collection[str]) -> dict[str, Any]:
        """Take the fields of these names that are there, each a number."""
        found = [name for name in self.rest if name in names]
        return {name: value for name in found if (value := self.number(name)) is not None}

    def known(self, names: Collection[str]) -> dict[str, Any]:
        """Take the fields of these names that are there, as they are."""
        rest = self.rest
        found = [name for name in rest if name in names]
        return {name: value for name in found if (value := rest.pop(name)) is not None}
