"""Frames as the observations show them: resized by area, stacked."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["FrameStack", "resize"]

Frame = NDArray[np.uint8]


@functools.cache
def _cover(size: int, wanted: int) -> list[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """Which of ``size`` pixels lie below each of ``wanted``, and by how much.

    Output pixel i spans [i, i + 1) × size / wanted of the input, so at most k = ⌈size / wanted⌉
    + 1 pixels.

    Returns:
        k pairs of an index, intp [wanted], and a weight, float32 [wanted, 1]. The weights are
        whole numbers, so that sums of them are exact; those of one output pixel sum to ``size``.
    """
    first = np.arange(wanted) * size // wanted
    pairs = []
    for k in range(-(-size // wanted) + 1):
        pixel = first + k
        left = np.maximum(np.arange(wanted) * size, pixel * wanted)
        right = np.minimum((np.arange(wanted) + 1) * size, (pixel + 1) * wanted)
        weight = np.maximum(right - left, 0).astype(np.float32)
        if weight.any():
            pairs.append((np.minimum(pixel, size - 1), weight[:, None]))
    return pairs


def _shrink(pixels: NDArray[np.float32], wanted: int) -> NDArray[np.float32]:
    """Weighted sums of rows: [wanted, …]. No matrix product: BLAS would start threads."""
    (index, weight), *others = _cover(pixels.shape[0], wanted)
    total = pixels[index]
    total *= weight
    for index, weight in others:
        part = pixels[index]
        part *= weight
        total += part
    return total


def resize(frame: Frame, height: int = 84, width: int = 84) -> Frame:
    """A grayscale frame shrunk by area interpolation, as OpenCV's ``INTER_AREA`` does.

    Every output pixel is the mean of the input below it, pixels that it covers in part counted
    by that part, rounded to the nearest integer.

    Args:
        frame: uint8 [h, w], not smaller than the output.
        height, width: of the output.

    Returns:
        uint8 [height, width].
    """
    rows = _shrink(frame.astype(np.float32), height)
    sums = _shrink(np.ascontiguousarray(rows.T), width).T
    sums /= frame.shape[0] * frame.shape[1]  # the sums are exact below 2**24, as 255 · h · w is
    return np.rint(sums).astype(np.uint8, order="C")


class FrameStack:
    """The last ``size`` frames as one array, the newest last.

    A new episode begins with its first frame repeated. A stack of one adds no axis.
    """

    def __init__(self, size: int) -> None:
        self._frames: deque[Frame] = deque(maxlen=size)
        self._single = size == 1

    def fill(self, frame: Frame) -> None:
        """Begin with ``frame`` in every place."""
        self._frames.extend([frame] * (self._frames.maxlen or 1))

    def push(self, frame: Frame) -> None:
        """Add a frame; the oldest goes."""
        self._frames.append(frame)

    def observe(self) -> Frame:
        """uint8 [size, …], or the frame itself."""
        return self._frames[-1] if self._single else np.stack(self._frames)

    def frames(self) -> list[Frame]:
        """All of them, the oldest first."""
        return list(self._frames)

    def load(self, frames: Iterable[Frame]) -> None:
        """Take these frames instead."""
        self._frames.extend(frames)
