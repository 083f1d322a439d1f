"""Data: nothing lost, nothing changed, nothing too large without a word."""

from __future__ import annotations

import math
from typing import Any

from openenv_async.checks.conformance.episodes import comparable
from openenv_async.checks.conformance.subject import Subject
from openenv_async.checks.registry import Skipped, check, require
from openenv_async.errors import PayloadTooLarge
from openenv_async.types import Limits

_SMALL = 64 * 1024
_PLAIN: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    2**53,
    1.5,
    "",
    "žluťoučký kůň 🐎 \u0000\u2028",
    [],
    {},
    [None, [1, [2, [3]]], {"a": {"b": [{}]}}],
    {"": 0, "ключ": [None], "a b": False},
)


async def _echoed(subject: Subject, values: tuple[Any, ...]) -> None:
    async with subject.transport.session() as env:
        await env.reset()
        for value in values:
            result = await env.step({"command": "echo", "data": value})
            back = result.observation["data"]
            require(
                comparable(back) == comparable(value), f"sent {value!r:.200}, got {back!r:.200}"
            )


@check("conformance", own=True, remedy="look at the payload codecs: what is put in must come out")
async def plain_data_comes_back(subject: Subject) -> None:
    """Numbers, text, lists and maps come back equal; None is not 0, False or missing."""
    await _echoed(subject, _PLAIN)


@check(
    "conformance", "exact", own=True, remedy="look at floats in the JSON format: they are tagged"
)
async def every_float_comes_back(subject: Subject) -> None:
    """NaN, the infinities, the smallest and the negative zero come back."""
    await _echoed(subject, (math.nan, math.inf, -math.inf, 5e-324, -0.0, 1e308, 0.1))


@check(
    "conformance", "exact", own=True, remedy="look at the Ext types of arrays and their JSON tags"
)
async def arrays_come_back_bit_by_bit(subject: Subject) -> None:
    """Arrays of every numeric dtype and shape come back with dtype, shape and bits."""
    try:
        import numpy as np
    except ImportError:
        raise Skipped("NumPy is not installed here") from None
    rng = np.random.default_rng(0)
    arrays: list[Any] = []
    for code in "?bBhHiIqQefdFD":
        for shape in ((), (0,), (3,), (2, 3), (2, 0, 2)):
            size = np.dtype(code).itemsize * math.prod(shape)
            octets = rng.integers(0, 2 if code == "?" else 256, size, np.uint8).tobytes()
            arrays.append(np.frombuffer(octets, code).reshape(shape))
    big = np.arange(24, dtype=">i4").reshape(2, 3, 4)
    arrays += [big, np.asfortranarray(big), big[:, ::2, ::-1], np.float32(0.1), np.int8(-3)]
    await _echoed(subject, (*arrays, {"nested": [arrays[5], {"deep": arrays[-5]}]}))


@check(
    "conformance", "exact", own=True, remedy="look at how an environment's own arrays are encoded"
)
async def an_array_the_environment_made(subject: Subject) -> None:
    """An observation's array of 100,000 bytes arrives as an array of its dtype."""
    try:
        import numpy as np
    except ImportError:
        raise Skipped("NumPy is not installed here") from None
    async with subject.transport.session() as env:
        await env.reset()
        result = await env.step({"command": "array", "count": 100_000})
        data = result.observation["data"]
        require(isinstance(data, np.ndarray), f"got {type(data).__name__}")
        require(data.dtype == np.uint8 and data.shape == (100_000,), f"got {data.dtype}")
        require(bool((data == np.arange(100_000) % 256).all()), "its elements differ")


@check(
    "conformance",
    "limits",
    own=True,
    remedy="the sender must check the other side's limit: that call fails, no other",
)
async def a_reply_over_the_limit_fails_alone(subject: Subject) -> None:
    """A reply larger than the client takes is a typed error for that call; the session goes on."""
    limits = Limits(max_message_size=_SMALL)
    async with (
        subject.transport.session(limits=limits) as env,
        subject.transport.session() as other,
    ):
        await env.reset()
        await other.reset()
        blob = {"command": "blob", "count": int(_SMALL * 1.1)}
        error = await subject.expect(PayloadTooLarge, env.step(blob))
        detail = getattr(error, "detail", {})
        require(detail.get("limit") == _SMALL, f"the details are {detail!r}")
        require(detail.get("size", 0) > _SMALL, f"the details are {detail!r}")
        await env.step(subject.action())
        result = await other.step(blob)
        require(len(result.observation["text"]) == blob["count"], "another session was cut short")


@check(
    "conformance",
    "limits",
    own=True,
    remedy="the client must check before sending: that call fails, no other",
)
async def a_request_over_the_limit_fails_alone(subject: Subject) -> None:
    """A request larger than the limit is a typed error before it is sent; the session goes on."""
    limits = Limits(max_message_size=_SMALL)
    async with subject.transport.session(limits=limits) as env:
        await env.reset()
        large = {"command": "echo", "text": "x" * int(_SMALL * 1.1)}
        error = await subject.expect(PayloadTooLarge, env.step(large))
        detail = getattr(error, "detail", {})
        require(detail.get("limit") == _SMALL, f"the details are {detail!r}")
        result = await env.step(subject.action())
        require(result.observation["steps"] == 1, "the refused step was counted")


@check(
    "conformance", own=True, remedy="look at batching: a large message must not be cut or mixed up"
)
async def large_messages_come_back(subject: Subject) -> None:
    """A megabyte both ways, larger than a batch, comes back whole."""
    async with subject.transport.session() as env:
        await env.reset()
        text = "".join(chr(97 + index % 26) for index in range(1_000_000))
        result = await env.step({"command": "echo", "text": text})
        require(result.observation["text"] == text, "it came back changed")
