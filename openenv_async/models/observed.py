"""Observations as a model reads them: a text, JSON, or content blocks with pictures."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any, Final, NamedTuple

from openenv_async.models.encoding import to_builtins

__all__ = [
    "NotAPicture",
    "Picture",
    "content_of",
    "is_image",
    "picture_of",
    "png",
    "without_pictures",
]

_PICTURES: Final = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
_RESULT: Final = ("reward", "done", "terminated", "truncated")
_COLOURS: Final = {1: 0, 3: 2, 4: 6}
"""Channels of a picture, and the number that PNG has for them."""


class Picture(NamedTuple):
    """A picture of an observation: its media type, and the file's bytes."""

    media_type: str
    data: bytes

    @property
    def base64(self) -> str:
        """The bytes as text."""
        return base64.b64encode(self.data).decode()


def content_of(observation: Any) -> str | list[dict[str, Any]]:
    """Return the content of the message that tells an observation.

    A text is told as it is, and so is the only text of an observation with one field; pictures (PNG
    or JPEG as bytes, arrays of uint8 [height, width] or [height, width, 1, 3 or 4]) are blocks of
    their own, in place of which the JSON of the rest says which; other arrays are lists. Fields of
    the result (``reward``, ``done``, ``terminated``, ``truncated``) are not the observation's.
    """
    if isinstance(observation, str):
        return observation
    plain = to_builtins(observation)
    if isinstance(plain, dict):
        plain = {name: value for name, value in plain.items() if not _of_result(name, value)}
    told, pictures = without_pictures(plain)
    text = _text(told)
    if not pictures:
        return text
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text}]
    urls = [f"data:{each.media_type};base64,{each.base64}" for each in pictures]
    return blocks + [{"type": "image_url", "image_url": {"url": url}} for url in urls]


def without_pictures(plain: Any) -> tuple[Any, list[Picture]]:
    """Return builtins and arrays as JSON has them, and the pictures that were among them.

    In the place of a picture stands which of them it was, in the place of another array a list.
    """
    pictures: list[Picture] = []
    return _told(plain, pictures), pictures


def png(picture: Any) -> bytes:
    """Return an array as a PNG (ISO/IEC 15948).

    Args:
        picture: uint8 [height, width] or [height, width, channels], of 1, 3 or 4 channels.
    """
    height, width = picture.shape[:2]
    channels = 1 if picture.ndim == 2 else picture.shape[2]
    rows = picture.reshape(height, width * channels)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(data, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


class NotAPicture(Exception):
    """Raised when an environment renders what is neither a picture nor a text."""


def picture_of(rendered: Any) -> Any:
    """Return what an environment rendered: a text, or an array that ``png`` takes.

    Raises:
        NotAPicture: it is neither; the message says what it is.
    """
    if isinstance(rendered, str):
        return rendered
    if not hasattr(rendered, "dtype") and hasattr(rendered, "__array_interface__"):  # of Pillow
        import numpy as np

        rendered = np.asarray(rendered)
    if is_image(rendered):
        return rendered
    kind = type(rendered).__name__
    if hasattr(rendered, "dtype") and hasattr(rendered, "shape"):
        kind = f"{rendered.dtype} array {list(rendered.shape)}"
    raise NotAPicture(f"a {kind}: it must be a uint8 array [height, width, 3] or a text")


def is_image(value: Any) -> bool:
    """Tell whether a value is an array that ``png`` takes."""
    if not hasattr(value, "dtype") or str(value.dtype) != "uint8" or 0 in value.shape:
        return False
    shape: tuple[int, ...] = value.shape
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in _COLOURS)


def _of_result(name: Any, value: Any) -> bool:
    """Return whether a field says how the step ended, as in OpenEnv's observations."""
    return name in _RESULT and isinstance(value, bool | int | float | None)


def _text(plain: Any) -> str:
    if isinstance(plain, str):
        return plain
    if isinstance(plain, dict) and len(plain) == 1:
        (only,) = plain.values()
        if isinstance(only, str):
            return only
    return json.dumps(plain, default=str, ensure_ascii=False)


def _told(value: Any, pictures: list[Picture]) -> Any:
    """Return a value as JSON has it; pictures are noted."""
    if isinstance(value, dict):
        return {str(key): _told(item, pictures) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_told(item, pictures) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        for magic, kind in _PICTURES.items():
            if data.startswith(magic):
                return _picture(kind, data, pictures)
        return base64.b64encode(data).decode()
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # of NumPy, which may not be there
        if _is_picture(value):
            return _picture("image/png", png(value), pictures)
        return value.tolist()
    return value


def _picture(kind: str, data: bytes, pictures: list[Picture]) -> str:
    pictures.append(Picture(kind, data))
    return f"<picture {len(pictures)}>"


def _is_picture(value: Any) -> bool:
    """Tell whether an array looks like a picture: small ones are boards and states."""
    return is_image(value) and min(value.shape[:2]) >= 16
