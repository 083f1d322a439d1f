"""Bounds on nesting and on the number of containers, checked before a payload is decoded.

A decoder recurses once per container, and the stack it recurses on belongs to C: a few
kilobytes of ``[[[[…`` must not reach it. Each check first tries an upper bound that costs
almost nothing (the number of container headers, real or not, bounds the depth) and scans
exactly only when that bound is not enough. Nothing here recurses, but for one decoder whose
type has no room for more than a few levels.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from typing import Any, Final

import msgspec

from openenv_async.errors import PayloadTooLarge, ProtocolError
from openenv_async.types import MAX_DEPTH

__all__ = [
    "check_json_containers",
    "check_json_depth",
    "check_msgpack_containers",
    "check_msgpack_depth",
    "is_small_msgpack",
    "json_items",
]

_CONTAINERS: Final = bytes([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])
NON_CONTAINER_BYTES: Final = bytes(b for b in range(256) if b not in _CONTAINERS)
"""Bytes that can never be the header of a msgpack array or map."""

_COUNT_LIMIT: Final = 64 * 1024
"""Bytes up to which counting headers beats scanning (a memoryview is copied for it)."""
_COUNT_AFTER: Final = 1024
"""Above this size a short scan comes first: large payloads are mostly one large blob."""
_SHORT_SCAN: Final = 128
_SHALLOW: Final = 6
"""Levels that a decoder tries before the exact scan: most data has no more."""
_SHALLOW_SIZE: Final = 1024 * 1024
"""Bytes up to which it tries, because what it decodes takes memory: 64 times that at worst."""

# Runs of scalars and short texts are skipped by the regex engine instead of by Python. No two
# alternatives begin alike, so that it never goes back.
_SHORT_TEXTS: Final = b"|".join(b"\\x%02x.{%d}" % (0xA0 + n, n) for n in range(1, 32))
_SHORT_BYTES: Final = b"|".join(b"\\x%02x.{%d}" % (n, n) for n in range(32))
_SCALAR: Final = (
    rb"(?>[\x00-\x7f\xa0\xc0\xc2\xc3\xe0-\xff]|[\xca\xce\xd2].{4}|[\xcb\xcf\xd3].{8}"
    rb"|[\xcc\xd0].|[\xcd\xd1]..|" + _SHORT_TEXTS + rb"|[\xc4\xd9](?>" + _SHORT_BYTES + rb"))"
)
_RUNS: Final = tuple(
    (n, re.compile(_SCALAR + b"{%d}+" % n, re.DOTALL).match) for n in (4096, 256, 16)
)

# Header byte -> bytes of content that follow it.
_SKIP: Final[dict[int, int]] = {
    **dict.fromkeys([*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3], 0),  # fixint, nil, bool
    **dict(zip(range(0xA0, 0xC0), range(32), strict=True)),  # fixstr
    **dict(zip(range(0xCA, 0xD4), (4, 8, 1, 2, 4, 8, 1, 2, 4, 8), strict=True)),  # float, uint, int
    **dict(zip(range(0xD4, 0xD9), (2, 3, 5, 9, 17), strict=True)),  # fixext
}
# Header byte -> width of the length that follows it, bytes beside the content.
_LENGTH: Final[dict[int, tuple[int, int]]] = dict(
    zip(
        [0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB, 0xC7, 0xC8, 0xC9],  # bin, str, ext
        [(1, 0), (2, 0), (4, 0), (1, 0), (2, 0), (4, 0), (1, 1), (2, 1), (4, 1)],
        strict=True,
    )
)
# Header byte of a small map or array -> values inside it.
_ITEMS: Final[dict[int, int]] = {0x80 + n: 2 * n if n < 16 else n - 16 for n in range(32)}
# Header byte -> width of the count that follows it, values per entry.
_COUNT: Final[dict[int, tuple[int, int]]] = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def check_msgpack_depth(data: bytes | memoryview, limit: int) -> None:
    """Raise ``ProtocolError`` when ``data`` has more than ``limit`` containers in each other.

    Data that the exact scan finds truncated or malformed is refused too; data that passes may
    still be malformed in ways that need no recursion to find.
    """
    size = len(data)
    if size <= limit:
        return
    if size > _COUNT_AFTER and _scan_msgpack(data, limit, _SHORT_SCAN):
        return
    if size <= _COUNT_LIMIT:
        octets = data if isinstance(data, bytes) else bytes(data)
        if len(octets.translate(None, NON_CONTAINER_BYTES)) <= limit:
            return
    if size <= _SHALLOW_SIZE:
        try:
            _shallow_decoder(min(limit, _SHALLOW))(data)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            pass  # deeper, or with bytes, dates or unusual keys, or malformed
        else:
            return
    _scan_msgpack(data, limit, None)


@functools.cache
def _shallow_decoder(levels: int) -> Callable[[bytes | memoryview], Any]:
    """A decoder of at most ``levels`` containers in each other; it refuses all other data.

    Eight times as fast as the scan. It never recurses deeper than that: where its type has no
    container, a container is refused by its header. Not all shallow data is read (msgspec has
    no union of text and bytes), so that only its yes is an answer.
    """
    scalar: Any = None | bool | int | float | str | msgspec.msgpack.Ext
    kind = scalar
    for _ in range(levels):
        kind = scalar | list[kind] | dict[str | int, kind]  # type: ignore[valid-type] # made at run time
    return msgspec.msgpack.Decoder(kind).decode


def check_msgpack_containers(data: bytes | memoryview, limit: int) -> None:
    """Raise ``PayloadTooLarge`` when ``data`` has more than ``limit`` arrays and maps.

    Each takes a byte of the data and a hundred of memory. Malformed or deeper data passes: its
    decoder says so better.
    """
    if len(data) <= limit:
        return
    try:
        if _scan_msgpack(data, MAX_DEPTH, _SHORT_SCAN, limit):
            return
        octets = data if isinstance(data, bytes) else bytes(data)
        if len(octets.translate(None, NON_CONTAINER_BYTES)) > limit:
            _scan_msgpack(data, MAX_DEPTH, None, limit)
    except ProtocolError:
        return


def check_json_containers(data: bytes | memoryview, limit: int) -> None:
    """Raise ``PayloadTooLarge`` when ``data`` has more than ``limit`` arrays and objects."""
    if len(data) <= limit:
        return
    octets = data if isinstance(data, bytes) else bytes(data)
    if len(octets.translate(None, _NOT_OPENING)) <= limit:
        return
    rest = _structure(octets)
    if rest.count(b"[") + rest.count(b"{") > limit:
        raise _too_many(limit)


def json_items(data: bytes) -> int:
    """The number of items in the outermost array of ``data``, if that is well formed."""
    rest = _structure(data).translate(_BRACKETS).removeprefix(b"[")
    rest = rest.removesuffix(b"]")
    for _ in range(_SHORT_LISTS):
        rest = rest.replace(b",]", b"]").replace(b"[]", b"")
        if b"[" not in rest:
            break
    while b"[" in rest:
        # By parts, because a substitution takes memory for each match.
        parts = range(0, len(rest), _PART)
        inner = b"".join([_INNERMOST.sub(b"", rest[at : at + _PART]) for at in parts])
        if len(inner) == len(rest):
            inner = _INNERMOST.sub(b"", rest)  # those longer than a part
            if len(inner) == len(rest):
                break
        rest = inner
    return rest.count(b",") + 1


def is_small_msgpack(data: bytes | memoryview, depth: int, values: int, around: int = 0) -> bool:
    """Return whether ``data`` has at most ``values`` values, as a header has.

    Args:
        data: one value.
        depth: containers that may be in each other, those around the value included.
        values: that it may have.
        around: containers around it.

    Raises:
        ProtocolError: it has more than ``depth`` containers in each other, or is malformed.
    """
    return _scan_msgpack(data, depth, values, every=True, around=around)


def _scan_msgpack(
    data: bytes | memoryview,
    limit: int,
    budget: int | None,
    max_containers: int = sys.maxsize,
    every: bool = False,
    around: int = 0,
) -> bool:
    """Walk the headers of one value; False when ``budget`` headers were not enough.

    A run of scalars counts as one, unless ``every`` value counts. There are containers ``around``
    the value already.
    """
    size = len(data)
    containers = 0
    position = 0
    left = 1  # values still to come in the innermost container
    outer = [0] * around  # the same for the containers around it
    steps = -1 if budget is None else budget
    while True:
        while not left:
            if not outer:
                return True
            left = outer.pop()
        if steps == 0:
            return False
        steps -= 1
        while left >= 16:
            for length, match in _RUNS:
                if left >= length and (found := match(data, position)):
                    left -= length
                    position = found.end()
                    if steps > 0:
                        steps -= min(steps, length if every else 1)
                    break
            else:
                break
            if steps == 0:
                return False
        if not left:
            continue
        if position >= size:
            raise _truncated()
        header = data[position]
        position += 1
        left -= 1
        if (skip := _SKIP.get(header)) is not None:
            position += skip
        elif (field := _LENGTH.get(header)) is not None:
            width, extra = field
            position += width
            if position > size:
                raise _truncated()
            position += int.from_bytes(data[position - width : position], "big") + extra
        else:
            if (items := _ITEMS.get(header)) is None:
                if (field := _COUNT.get(header)) is None:
                    raise ProtocolError(f"malformed msgpack: no value begins with 0x{header:02x}")
                width, factor = field
                position += width
                if position > size:
                    raise _truncated()
                items = int.from_bytes(data[position - width : position], "big") * factor
            outer.append(left)
            if len(outer) > limit:
                raise _too_deep(limit)
            containers += 1
            if containers > max_containers:
                raise _too_many(max_containers)
            if items > size - position:  # every value takes at least one byte
                raise _truncated()
            left = items
        if position > size:
            raise _truncated()


_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
_PART: Final = 4096
_SHORT_LISTS: Final = 12
"""Commas of lists that go one by one, which costs less than to match each list."""
_NOT_STRUCTURE_NOR_QUOTES: Final = bytes(b for b in range(256) if b not in b'[]{},"')
_INNERMOST: Final = re.compile(rb"\[[^\[\]]*+\]")
_NOT_OPENING: Final = bytes(b for b in range(256) if b not in b"[{")


def _structure(octets: bytes) -> bytes:
    """Brackets and commas of JSON that stand outside its strings.

    Without the escapes of quotes, every second quote ends a string; one that never ends goes on up
    to the end of the data. Some at a time, because a split takes memory for each part.
    """
    found = []
    inside = 0
    start = 0
    while start < len(octets):
        part = octets[start : start + _COUNT_LIMIT]
        if (len(part) - len(part.rstrip(b"\\"))) & 1:  # an escape stays whole
            part = octets[start : start + _COUNT_LIMIT + 1]
        start += len(part)
        # To split and join takes half the time of a replacement.
        if rb'\\"' in part:  # a backslash that is escaped, before a quote
            part = b"".join(part.split(rb"\\"))
        part = b"".join(part.split(rb"\""))
        parts = part.translate(None, _NOT_STRUCTURE_NOR_QUOTES).split(b'"')
        found.append(b"".join(parts[inside::2]))
        inside ^= (len(parts) - 1) & 1
    return b"".join(found)


def check_json_depth(data: bytes | memoryview, limit: int) -> None:
    """Raise ``ProtocolError`` when ``data`` has more than ``limit`` containers in each other.

    Unbalanced brackets are refused as well when the exact scan is reached.
    """
    if len(data) <= limit:
        return
    octets = data if isinstance(data, bytes) else bytes(data)
    if len(octets.translate(None, _NOT_OPENING)) <= limit:
        return
    # Take the innermost pairs away, one level a round: as many rounds as there are levels.
    rest = _structure(octets).translate(_BRACKETS, b",")
    for _ in range(limit):
        if not rest:
            return
        before = len(rest)
        rest = rest.replace(b"[]", b"")
        if len(rest) == before:
            break
    if not rest:
        return
    if b"[]" in rest or rest.startswith(b"[" * (limit + 1)):
        raise _too_deep(limit)
    raise ProtocolError("malformed JSON: brackets are not balanced")


def _too_deep(limit: int) -> ProtocolError:
    return ProtocolError(
        f"payload is nested deeper than the limit of {limit} containers (MAX_DEPTH):"
        " flatten it or send it as an array",
        limit=limit,
    )


def _too_many(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"payload has more than {limit:,} arrays and maps (Limits.max_containers of the receiving"
        " side): raise that, or send numbers as an array",
        limit=limit,
        field="max_containers",
    )


def _truncated() -> ProtocolError:
    return ProtocolError("malformed msgpack: the data ends before its last value")
