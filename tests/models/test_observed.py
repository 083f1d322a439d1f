"""Observations as models read them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from openenv_async.models.observed import content_of, png


@dataclass
class Seen:
    picture: Any
    text: str = "a room"


def test_text_and_json() -> None:
    assert content_of("grüß") == "grüß"
    assert content_of({"board": "x.o"}) == "x.o"
    assert content_of({"board": np.arange(3), "t": 1.5}) == '{"board": [0, 1, 2], "t": 1.5}'
    assert content_of(np.zeros((2, 2), np.uint8)) == "[[0, 0], [0, 0]]"  # a board, not a picture
    assert content_of({"blob": b"\0\1", "n": None}) == '{"blob": "AAE=", "n": null}'
    result = {"reward": 1.5, "done": True, "truncated": False, "terminated": None}
    assert content_of({"board": "x.o", **result}) == "x.o"
    assert (
        content_of({"done": "soon", "n": {"reward": 1}}) == '{"done": "soon", "n": {"reward": 1}}'
    )
    assert content_of(result) == "{}"
    assert content_of({1: "a", 2: "ü"}) == '{"1": "a", "2": "ü"}'


def blocks_of(observation: Any) -> list[Any]:
    blocks = content_of(observation)
    assert isinstance(blocks, list)
    return blocks


def decoded(block: Any, tmp_path: Any) -> Any:
    reader = pytest.importorskip("matplotlib.image")  # a PNG reader of others
    kind, _, data = block["image_url"]["url"].partition(";base64,")
    assert (block["type"], kind) == ("image_url", "data:image/png")
    file = tmp_path / "picture.png"
    file.write_bytes(base64.b64decode(data))
    return np.rint(reader.imread(str(file)) * 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3), (20, 30, 4)])
def test_pictures_are_blocks(shape: tuple[int, ...], tmp_path: Any) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    text, block = blocks_of(Seen(picture))
    assert text == {"type": "text", "text": '{"picture": "<picture 1>", "text": "a room"}'}
    assert (decoded(block, tmp_path) == picture.squeeze()).all()
    flipped = picture[::-1]  # not contiguous
    assert (decoded(blocks_of(Seen(flipped))[1], tmp_path) == flipped.squeeze()).all()


def test_pictures_that_are_files_already() -> None:
    made = png(np.zeros((16, 16, 3), np.uint8))
    jpeg = b"\xff\xd8\xff\xe0rest"
    _, first, second = blocks_of({"a": made, "b": [jpeg]})
    assert first["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(made).decode()
    assert second["image_url"]["url"].startswith("data:image/jpeg;base64,")


def test_arrays_that_are_not_pictures_are_lists() -> None:
    for array in (
        np.zeros((20, 30), np.float32),
        np.zeros((20, 30, 2), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((20,), np.uint8),
        np.zeros((0, 30, 3), np.uint8),
    ):
        assert isinstance(content_of({"a": array, "b": 1}), str)
