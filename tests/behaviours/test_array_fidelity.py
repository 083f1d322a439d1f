"""Arrays and scalars of NumPy, bit by bit, and without a copy where there need be none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from openenv_async import EnvClient, Environment, HTTPEnvClient, serve
from openenv_async.errors import InvalidModel, InvalidObservation

NUMERIC = "?bBhHiIlLqQefdgFDG"


@dataclass
class Payload:
    array: Any


@dataclass
class Typed:
    frame: NDArray[np.uint8]
    logits: NDArray[np.float32]


class Echo(Environment[Payload, Payload, Any]):
    """Gives back what it got; ``give`` instead, when it is set."""

    isolation = "inline"
    give: Any = None

    def reset(self) -> Payload:
        return Payload(None)

    def step(self, action: Payload) -> Payload:
        return action if Echo.give is None else Payload(Echo.give)


class TypedEcho(Environment[Typed, Typed, Any]):
    """The same with fields that say what they are."""

    isolation = "inline"

    def reset(self) -> Typed:
        return Typed(np.zeros((2, 2), np.uint8), np.zeros(0, np.float32))

    def step(self, action: Typed) -> Typed:
        return action


def arrays() -> list[Any]:
    rng = np.random.default_rng(30)
    made: list[Any] = []
    for code in NUMERIC:
        dtype = np.dtype(code)
        for shape in ((), (0,), (1,), (5,), (3, 4), (2, 0, 3), (2, 3, 4)):
            size = dtype.itemsize * int(np.prod(shape))
            octets = rng.integers(0, 2 if code == "?" else 256, size, np.uint8)
            made.append(np.frombuffer(octets.tobytes(), dtype).reshape(shape))
    base = np.arange(60, dtype="<i4").reshape(3, 4, 5)
    made += [
        base.astype(">i4"),
        np.asfortranarray(base),
        base[::2, ::-1, 1:4],
        base.T,
        np.broadcast_to(np.float32(2.5), (4, 4)),
        np.array(["2026-01-01"], "M8[D]"),
        np.array([3, -4], "m8[ns]"),
        np.array(["žluť", ""]),
        np.array([b"ab", b"c"]),
    ]
    return made


def same(one: Any, other: Any) -> bool:
    return bool(
        isinstance(one, np.ndarray)
        and one.dtype == other.dtype
        and one.shape == other.shape
        and one.tobytes() == other.tobytes()
    )


CLIENTS: dict[str, Any] = {
    "msgpack": lambda url: EnvClient[Payload, Payload, Any](url),
    "json": lambda url: EnvClient[Payload, Payload, Any](url, subprotocol="openenv.v1.json"),
    "http": lambda url: HTTPEnvClient[Payload, Payload, Any](url),
}


@pytest.mark.parametrize("transport", CLIENTS)
async def test_every_array_comes_back_bit_by_bit(transport: str) -> None:
    Echo.give = None
    async with serve(Echo) as url, CLIENTS[transport](url) as env:
        await env.reset()
        for array in arrays():
            back = (await env.step(Payload(array))).observation.array
            assert same(back, array), (array.dtype, array.shape)
        nested: dict[str, Any] = {"a": [arrays()[3], {"b": arrays()[-1]}], "n": None}
        back = (await env.step(Payload(nested))).observation.array
        assert same(back["a"][0], nested["a"][0])
        assert same(back["a"][1]["b"], nested["a"][1]["b"])


@pytest.mark.parametrize("transport", CLIENTS)
async def test_scalars_keep_their_type(transport: str) -> None:
    async with serve(Echo) as url, CLIENTS[transport](url) as env:
        await env.reset()
        for code in NUMERIC:
            scalar = np.dtype(code).type(1)
            back = (await env.step(Payload(scalar))).observation.array
            assert isinstance(back, np.generic)
            assert back.dtype == scalar.dtype
            assert back == scalar


async def test_decoded_arrays_share_memory_with_their_frame() -> None:
    async with serve(Echo) as url, CLIENTS["msgpack"](url) as env:
        await env.reset()
        back = (await env.step(Payload(np.arange(100_000, dtype=np.uint8)))).observation.array
        assert not back.flags.owndata
        assert not back.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            back[0] = 1
        copy = back.copy()
        copy[0] = 9
        assert copy.flags.owndata


@pytest.mark.parametrize("transport", CLIENTS)
async def test_objects_are_a_clear_error_on_either_side(transport: str) -> None:
    wrong = np.array([{"a": 1}, None], dtype=object)
    structured = np.zeros(2, dtype=[("x", "f4"), ("y", "i4")])
    async with serve(Echo) as url, CLIENTS[transport](url) as env:
        await env.reset()
        for array, remedy in ((wrong, "numeric dtype"), (structured, "each field")):
            with pytest.raises(InvalidModel, match=remedy):
                await env.step(Payload(array))
            Echo.give = array
            with pytest.raises(InvalidObservation, match=remedy):
                await env.step(Payload(None))
            Echo.give = None
        assert (await env.step(Payload(1))).observation.array == 1


async def test_images_stay_encoded_bytes() -> None:
    image = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
    async with serve(Echo) as url, CLIENTS["msgpack"](url) as env:
        await env.reset()
        back = (await env.step(Payload(image))).observation.array
        assert bytes(back) == image


@pytest.mark.parametrize("subprotocol", ["openenv.v1.msgpack", "openenv.v1.json"])
async def test_typed_fields(subprotocol: str) -> None:
    async with (
        serve(TypedEcho) as url,
        EnvClient[Typed, Typed, Any](url, subprotocol=subprotocol) as env,
    ):
        await env.reset()
        action = Typed(np.arange(12, dtype=np.uint8).reshape(3, 4), np.array([0.5, -1], np.float32))
        back = (await env.step(action)).observation
        assert same(back.frame, action.frame)
        assert same(back.logits, action.logits)
