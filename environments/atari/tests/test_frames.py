"""Resizing against a plain reference."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from atari_env.frames import resize
from numpy.typing import NDArray

Frame = NDArray[np.uint8]


def reference(frame: Frame, height: int, width: int) -> Frame:
    """Every output pixel is the exact mean of the area below it."""

    def parts(i: int, size: int, wanted: int) -> list[tuple[int, Fraction]]:
        low, high = Fraction(i * size, wanted), Fraction((i + 1) * size, wanted)
        return [
            (p, min(high, Fraction(p + 1)) - max(low, Fraction(p)))
            for p in range(int(low), -int(-high // 1))
        ]

    result = np.zeros((height, width), np.uint8)
    area = Fraction(frame.shape[0] * frame.shape[1], height * width)
    for i in range(height):
        for j in range(width):
            total = sum(
                int(frame[y, x]) * share_y * share_x
                for y, share_y in parts(i, frame.shape[0], height)
                for x, share_x in parts(j, frame.shape[1], width)
            )
            result[i, j] = round(total / area)  # half to even, as OpenCV's cvRound
    return result


@pytest.mark.parametrize("shape", [(210, 160), (250, 160)])
def test_it_is_the_mean_of_the_area(shape: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    small = resize(frame)
    assert small.shape == (84, 84)
    assert small.dtype == np.uint8
    assert small.flags["C_CONTIGUOUS"]
    part = frame[:, :40]  # 40 columns make 21, as 160 make 84
    assert np.array_equal(resize(part, 84, 21), small[:, :21])
    assert np.array_equal(small[:, :21], reference(part, 84, 21))


def test_halves_are_rounded_to_even() -> None:
    frame = np.array([[0, 1, 3, 4]], np.uint8)
    assert resize(frame, 1, 2).tolist() == [[0, 4]]  # 0.5 and 3.5


def test_extremes_survive() -> None:
    assert resize(np.full((210, 160), 255, np.uint8)).min() == 255
    assert resize(np.zeros((250, 160), np.uint8)).max() == 0
    same = np.arange(84 * 84, dtype=np.uint32).astype(np.uint8).reshape(84, 84)
    assert np.array_equal(resize(same), same)
