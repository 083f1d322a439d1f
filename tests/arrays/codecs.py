"""Codecs of every format, and the way of a value through one."""

from __future__ import annotations

from typing import Any

from openenv_async.models import PayloadCodec

FORMATS = ["msgpack", "json"]
CODECS: dict[str, PayloadCodec[Any]] = {
    "msgpack": PayloadCodec(Any, "msgpack"),
    "json": PayloadCodec(Any, "json"),
    "plain": PayloadCodec(Any, "plain"),
}


def same(a: Any, b: Any) -> bool:
    return (type(a), a.dtype.str, a.shape, a.tobytes()) == (
        type(b),
        b.dtype.str,
        b.shape,
        b.tobytes(),
    )


def trip(value: Any, name: str) -> Any:
    codec = CODECS[name]
    return codec.decode(codec.encode(value))
