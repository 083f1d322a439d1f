"""Typed Parquet columns for values whose shape is the environment's.

A column is of one kind, which is found in its first values: numbers are numbers, arrays are lists
of their elements, pictures are PNG bytes, dicts of one set of keys are structs. Values that differ,
or have no such form, are JSON texts, in a field of a struct or in the whole column.

Rules:

- A value is read as it was written: type, dtype and shape. A kind says what Arrow's type does not,
  and stands in the file's metadata.
- A value that does not fit the kind of its column is not in it; ``column`` says which are not, and
  the writer keeps those elsewhere. Integers among floats are in it, as floats, and elsewhere.
- Null is ``None``, and nothing else is.
- Values are those of MessagePack without the hooks of ``arrays``: an array is still an ``Ext``,
  so that thousands become a column by joining their bytes.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from openenv_async.arrays import EXT_NDARRAY, EXT_NPSCALAR, tag
from openenv_async.models.decoding import ext_hook
from openenv_async.rollouts.record import decode

__all__ = [
    "JSON",
    "NULL",
    "Kind",
    "arrow_type",
    "column",
    "fixed",
    "json_text",
    "kind_from",
    "kind_of",
    "merged",
    "restored",
    "with_arrays",
]

Ext = msgspec.msgpack.Ext

_MAX_FIELDS: Final = 64
_MAX_LEVELS: Final = 8
_LEAST_PICTURE: Final = 32
"""Pixels of the shorter side of what is taken for a picture: smaller ones are boards and grids."""
_INT64: Final = (-(1 << 63), (1 << 63) - 1)
_LARGE: Final = 1 << 18
"""Bytes of an array from which on many are not joined at once."""
_PIECE: Final = 8192
"""Values that are looked at or converted in one call: others get the interpreter in between."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The kind of a column.

    Attributes:
        name: ``null`` (no value yet), ``json``, ``bool``, ``int``, ``float``, ``number`` (a float
            that may have been an integer), ``text``, ``bytes``, ``scalar``, ``array``, ``image``,
            ``list`` or ``dict``.
        dtype: of an array, an image or a NumPy scalar, as ``dtype.str``; the narrower Arrow type
            of an integer.
        shape: of an array or image; ``None`` for a side of any length.
        parts: names and kinds of a dict's fields; of a list's elements.
    """

    name: str
    dtype: str = ""
    shape: tuple[int | None, ...] = ()
    parts: tuple[tuple[str, Kind], ...] = ()

    def as_plain(self) -> Any:
        """Return the kind as JSON has it: its name, where that says all."""
        plain: dict[str, Any] = {"kind": self.name}
        if self.dtype:
            plain["dtype"] = self.dtype
        if self.shape:
            plain["shape"] = list(self.shape)
        if self.name == "dict":
            plain["fields"] = {name: kind.as_plain() for name, kind in self.parts}
        if self.name == "list":
            plain["items"] = self.parts[0][1].as_plain()
        return plain if len(plain) > 1 else self.name


def kind_from(plain: Any) -> Kind:
    """Return the kind that JSON tells of: the inverse of ``as_plain``."""
    if isinstance(plain, str):
        return Kind(plain)
    parts = tuple((name, kind_from(part)) for name, part in plain.get("fields", {}).items())
    if "items" in plain:
        parts = (("", kind_from(plain["items"])),)
    return Kind(plain["kind"], plain.get("dtype", ""), tuple(plain.get("shape", ())), parts)


NULL: Final = Kind("null")
JSON: Final = Kind("json")
_BOOL: Final = Kind("bool")
_INT: Final = Kind("int")
_FLOAT: Final = Kind("float")
_NUMBER: Final = Kind("number")
_TEXT: Final = Kind("text")
_BYTES: Final = Kind("bytes")
_PLAIN: Final[dict[type, Kind]] = {bool: _BOOL, float: _FLOAT, str: _TEXT, bytes: _BYTES}
_NUMBERS: Final = (_INT, _FLOAT, _NUMBER)
_ARROW: Final = {
    "null": "string",
    "json": "string",
    "bool": "bool_",
    "int": "int64",
    "float": "float64",
    "number": "float64",
    "text": "string",
    "bytes": "binary",
    "image": "binary",
}
"""Arrow's names of the types of the kinds that have one for all."""


def fixed(fields: Mapping[str, str]) -> Kind:
    """Return the kind of dicts with these fields: by name ``text`` and ``int8[]``."""
    return Kind("dict", parts=tuple((name, _fixed(kind)) for name, kind in fields.items()))


def _fixed(kind: str) -> Kind:
    if kind.endswith("[]"):
        return Kind("list", parts=(("", _fixed(kind.removesuffix("[]"))),))
    return Kind("int", kind) if kind in ("int8", "int32") else Kind(kind)


# -- the kind of values ---------------------------------------------------------------------------


def kind_of(values: Sequence[Any], level: int = 0) -> Kind:
    """Return the one kind of values; ``json`` where there is none."""
    types: set[type] = set()
    for at in range(0, len(values), _PIECE):
        types.update(map(type, values[at : at + _PIECE]))
    has_null = type(None) in types
    types.discard(type(None))
    if not types:
        return NULL
    if len(types) > 1:
        return _NUMBER if types == {int, float} and _are_int64(_ints(values)) else JSON
    [kind] = types
    if kind in _PLAIN:
        return _PLAIN[kind]
    given = [value for value in values if value is not None] if has_null else values
    if kind is int:
        return _INT if _are_int64(given) else JSON
    if kind is Ext:
        return _kind_of_exts(given)
    if level < _MAX_LEVELS:
        if kind is dict:
            return _kind_of_dicts(given, level)
        if kind is list:
            items = kind_of(list(itertools.chain.from_iterable(given)), level + 1)
            return JSON if items == JSON else Kind("list", parts=(("", items),))
    return JSON


def _ints(values: Iterable[Any]) -> list[int]:
    return [value for value in values if type(value) is int]


def _are_int64(values: Sequence[int]) -> bool:
    least, most = _INT64
    return min(values) >= least and max(values) <= most


def _kind_of_dicts(values: Sequence[dict[Any, Any]], level: int) -> Kind:
    names = values[0].keys()
    if not 0 < len(names) <= _MAX_FIELDS or not all(type(name) is str and name for name in names):
        return JSON
    if len({name.casefold() for name in names}) < len(names):
        return JSON  # to databases they are one
    if any(value.keys() != names for value in values):
        return JSON
    parts = [(name, kind_of([value[name] for value in values], level + 1)) for name in names]
    return Kind("dict", parts=tuple(parts))


def _kind_of_exts(values: Sequence[Any]) -> Kind:
    """Return the kind of arrays or NumPy scalars."""
    codes = {value.code for value in values}
    if len(codes) > 1:
        return JSON
    [code] = codes
    if code not in (EXT_NDARRAY, EXT_NPSCALAR):
        return JSON
    first = _head(values[0].data)
    heads = {first}
    heads |= {_head(value.data) for value in values if value.data[: len(first)] != first}
    kinds = {_kind_of_head(head, code) for head in heads}
    return kinds.pop() if len(kinds) == 1 else JSON


def _head(data: bytes | memoryview) -> bytes:
    """Return what stands before the elements of an array."""
    name_end = 1 + data[0]
    return bytes(data[: name_end + 1 + 8 * data[name_end]])


@functools.lru_cache(maxsize=1024)
def _kind_of_head(head: bytes, code: int) -> Kind:
    dtype, shape = _dtype_and_shape(head)
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        return JSON
    if code == EXT_NPSCALAR:
        return Kind("scalar", dtype.str)
    if not shape or (len(shape) > 1 and 0 in shape):
        return JSON
    if _is_picture(dtype, shape) and _has_pillow():
        return Kind("image", dtype.str, (None, None, *shape[2:]))
    return Kind("array", dtype.str, (None,) if len(shape) == 1 else shape)


def _dtype_and_shape(head: bytes) -> tuple[Any, tuple[int, ...]]:
    import numpy as np

    name_end = 1 + head[0]
    sizes = np.frombuffer(head[name_end + 1 :], "<u8")
    return np.dtype(head[1:name_end].decode()), tuple(sizes.tolist())


def _is_picture(dtype: Any, shape: tuple[int, ...]) -> bool:
    if dtype.str != "|u1" or min(shape[:2]) < _LEAST_PICTURE:
        return False
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))


@functools.cache
def _has_pillow() -> bool:
    return importlib.util.find_spec("PIL") is not None


def merged(kind: Kind, other: Kind) -> Kind:
    """Return the kind of a column with values of another: more exact, or wider, or as it was."""
    if kind == other or other == NULL:
        return kind
    if kind == NULL:
        return other
    if kind in _NUMBERS and other in _NUMBERS:
        return _NUMBER
    if kind.name == other.name == "list":
        return Kind("list", parts=(("", merged(kind.parts[0][1], other.parts[0][1])),))
    if kind.name == other.name == "dict":
        others = dict(other.parts)
        if others.keys() == {name for name, _ in kind.parts}:
            parts = ((name, merged(part, others[name])) for name, part in kind.parts)
            return Kind("dict", parts=tuple(parts))
    return kind


def _has(kind: Kind, other: Kind) -> bool:
    """Return whether a column of a kind has values of another as they are."""
    if kind == JSON or other == NULL:
        return True
    if kind == _NUMBER:
        return other == _FLOAT  # an integer would come back as a float
    if kind.name == other.name == "list":
        return _has(kind.parts[0][1], other.parts[0][1])
    if kind.name == other.name == "dict":
        others = dict(other.parts)
        return others.keys() == {name for name, _ in kind.parts} and all(
            _has(part, others[name]) for name, part in kind.parts
        )
    return kind == other


# -- values to a column ---------------------------------------------------------------------------


def arrow_type(kind: Kind) -> Any:
    """Return the Arrow type of a column."""
    import pyarrow as pa  # type: ignore[import-untyped]  # it has none

    if kind.name == "dict":
        return pa.struct([(name, arrow_type(part)) for name, part in kind.parts])
    if kind.name == "list":
        return pa.list_(arrow_type(kind.parts[0][1]))
    if kind.name in ("scalar", "array"):
        made = pa.from_numpy_dtype(_stored(kind.dtype))
        for _ in kind.shape:
            made = pa.list_(made)
        return made
    return getattr(pa, kind.dtype if kind.name == "int" and kind.dtype else _ARROW[kind.name])()


def _stored(dtype: str) -> Any:
    """Return the dtype of an array's elements in a file: few programs read halves."""
    import numpy as np

    made = np.dtype(dtype).newbyteorder("=")
    return np.dtype(np.float32) if made == np.float16 else made


def column(kind: Kind, values: Sequence[Any], found: Kind | None = None) -> tuple[Any, list[int]]:
    """Return the values as an Arrow array, and the places of those that are not in it as they are.

    Args:
        kind: of the column.
        values: what is in it.
        found: their kind, if it is known.
    """
    if _has(kind, kind_of(values) if found is None else found):
        return _built(kind, values), []
    others = []
    fitting = list(values)
    for at, value in enumerate(values):
        if not _has(kind, kind_of([value])):
            others.append(at)
            near = _with_floats(kind, value)
            fitting[at] = near if _has(kind, kind_of([near])) else None
    return _built(kind, fitting), others


def _with_floats(kind: Kind, value: Any) -> Any:
    """Return a value with floats for the integers where the kind has numbers."""
    if kind == _NUMBER and type(value) is int and abs(value) <= 1 << 53:
        return float(value)
    if kind.name == "list" and type(value) is list:
        return [_with_floats(kind.parts[0][1], item) for item in value]
    if kind.name == "dict" and type(value) is dict:
        return {name: _with_floats(part, value[name]) for name, part in kind.parts if name in value}
    return value


def _built(kind: Kind, values: Sequence[Any]) -> Any:
    """Return values that fit a kind as an Arrow array."""
    import pyarrow as pa

    if kind.name == "json":
        values = [None if value is None else json_text(value) for value in values]
    elif kind.name == "image":
        values = [None if value is None else _png(value.data) for value in values]
    elif kind.name in ("scalar", "array"):
        return _built_of_arrays(kind, values)
    elif kind.name == "dict":
        return _built_of_dicts(kind, values)
    elif kind.name == "list":
        part = kind.parts[0][1]
        items = _built(part, [item for value in values if value is not None for item in value])
        lengths = [0 if value is None else len(value) for value in values]
        return pa.ListArray.from_arrays(_offsets(lengths), items, mask=_mask(values))
    of = arrow_type(kind)
    if len(values) <= _PIECE:
        return pa.array(values, of)
    pieces = [pa.array(values[at : at + _PIECE], of) for at in range(0, len(values), _PIECE)]
    return pa.concat_arrays(pieces)


def _built_of_dicts(kind: Kind, values: Sequence[Any]) -> Any:
    import pyarrow as pa

    mask = _mask(values)
    if mask is None:
        columns = [[value[name] for value in values] for name, _ in kind.parts]
    else:
        columns = [
            [None if value is None else value[name] for value in values] for name, _ in kind.parts
        ]
    arrays = [_built(part, given) for (_, part), given in zip(kind.parts, columns, strict=True)]
    return pa.StructArray.from_arrays(arrays, [name for name, _ in kind.parts], mask=mask)


def _built_of_arrays(kind: Kind, values: Sequence[Any]) -> Any:
    """Return arrays or NumPy scalars, all of one dtype and shape, as an Arrow array."""
    import numpy as np
    import pyarrow as pa

    given = [value.data for value in values if value is not None]
    start = len(_head(given[0])) if given else 0
    dtype, stored = np.dtype(kind.dtype), _stored(kind.dtype)
    flat = _joined(given, start, dtype).astype(stored, copy=False)
    mask = _mask(values) if len(given) < len(values) else None
    if kind.name == "scalar":
        if mask is None:
            return pa.array(flat)
        spread = np.zeros(len(values), stored)
        spread[[value is not None for value in values]] = flat
        return pa.array(spread, mask=np.asarray(mask))
    items = pa.array(flat)
    for size in reversed(kind.shape[1:]):
        assert size is not None
        items = pa.ListArray.from_arrays(
            pa.array(np.arange(0, len(items) + 1, size, dtype=np.int32)), items
        )
    inner = dtype.itemsize * math.prod(size or 1 for size in kind.shape[1:])
    if mask is not None or kind.shape[0] is None:
        sizes = [0 if value is None else len(value.data) - start for value in values]
        ends = np.cumsum([0, *sizes]) // inner
    else:
        ends = np.arange(0, len(values) + 1) * kind.shape[0]
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), items, mask=mask)


def _joined(arrays: Sequence[bytes], start: int, dtype: Any) -> Any:
    """Return the elements of arrays as one array; each stands behind a head of that size."""
    import numpy as np

    sizes = set(map(len, arrays))
    if len(sizes) != 1 or max(sizes) > _LARGE:
        made = np.empty((sum(map(len, arrays)) - start * len(arrays)) // dtype.itemsize, dtype)
        at = 0
        for data in arrays:  # a piece at a time: others get the interpreter in between
            elements = np.frombuffer(data, dtype, offset=start)
            made[at : at + len(elements)] = elements
            at += len(elements)
        return made
    [size] = sizes
    rows = np.frombuffer(b"".join(arrays), np.uint8).reshape(len(arrays), size)[:, start:]
    return np.ascontiguousarray(rows).reshape(-1).view(dtype)


def _offsets(lengths: list[int]) -> Any:
    import pyarrow as pa

    return pa.array([0, *itertools.accumulate(lengths)], pa.int32())


def _mask(values: Sequence[Any]) -> Any:
    """Return which of the values are null; ``None`` if none is."""
    import pyarrow as pa

    missing = [value is None for value in values]
    return pa.array(missing) if True in missing else None


def _png(data: bytes) -> bytes:
    from PIL import Image

    pixels = ext_hook(EXT_NDARRAY, memoryview(data))
    file = io.BytesIO()
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


_LEAVES: Final = frozenset({type(None), bool, int, str})
_TEXT_KEYS: Final = frozenset({str})
_TO_JSON: Final = msgspec.json.Encoder().encode


def json_text(value: Any) -> str:
    """Return a value as JSON with the tagged objects of ``arrays``."""
    if type(value) in _LEAVES:
        return _TO_JSON(value).decode()
    if type(value) is dict and (
        not value
        or (
            len(value) > 1  # the only key might be a tag
            and _LEAVES.issuperset(map(type, value.values()))
            and _TEXT_KEYS.issuperset(map(type, value))
        )
    ):
        return _TO_JSON(value).decode()
    return _TO_JSON(tag(with_arrays(value))).decode()


def with_arrays(value: Any) -> Any:
    """Return a tree with each ``Ext`` as the array, scalar or large integer that it is."""
    kind = type(value)
    if kind is dict:
        return {key: with_arrays(item) for key, item in value.items()}
    if kind is list:
        return [with_arrays(item) for item in value]
    if kind is Ext:
        return ext_hook(value.code, memoryview(value.data))
    return value


# -- a column to values ---------------------------------------------------------------------------


def restored(kind: Kind, found: Any) -> list[Any]:
    """Return the values of an Arrow array of a kind: the inverse of ``column``.

    Arrays are views of Arrow's memory, and not writable.

    Raises:
        ModuleNotFoundError: pictures without Pillow.
    """
    if hasattr(found, "combine_chunks"):
        found = found.combine_chunks()
    match kind.name:
        case "null":
            return [None] * len(found)
        case "json":
            return _each(decode, found.to_pylist())
        case "image":
            return _each(functools.partial(_pixels, ndim=len(kind.shape)), found.to_pylist())
        case "scalar":
            return _restored_scalars(kind, found)
        case "array":
            return _restored_arrays(kind, found)
        case "list":
            lengths = found.value_lengths().to_pylist()
            items = iter(restored(kind.parts[0][1], found.flatten()))
            return [
                None if length is None else list(itertools.islice(items, length))
                for length in lengths
            ]
        case "dict":
            return _restored_dicts(kind, found)
        case _:
            values: list[Any] = found.to_pylist()
            return values


def _each(read: Callable[[Any], Any], values: list[Any]) -> list[Any]:
    return [None if value is None else read(value) for value in values]


def _pixels(data: bytes, ndim: int) -> Any:
    try:
        import numpy as np
        from PIL import Image
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            "reading the pictures of this file needs Pillow: pip install 'openenv-async[parquet]'",
            name=exc.name,
        ) from None
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    pixels = pixels[..., None] if pixels.ndim < ndim else pixels
    pixels.flags.writeable = False
    return pixels


def _restored_scalars(kind: Kind, found: Any) -> list[Any]:
    import numpy as np

    make = np.dtype(kind.dtype).type
    return _each(make, found.to_pylist())


def _restored_arrays(kind: Kind, found: Any) -> list[Any]:
    import numpy as np

    lengths = found.value_lengths().to_pylist()
    items = found.flatten()
    for _ in kind.shape[1:]:
        items = items.flatten()
    is_bool = np.dtype(kind.dtype).kind == "b"
    flat = items.to_numpy(zero_copy_only=not is_bool).astype(kind.dtype, copy=False)
    flat.flags.writeable = False
    rest = tuple(size or 0 for size in kind.shape[1:])
    row = math.prod(rest)
    values: list[Any] = []
    start = 0
    for length in lengths:
        if length is None:
            values.append(None)
            continue
        end = start + length * row
        values.append(flat[start:end].reshape(length, *rest))
        start = end
    return values


def _restored_dicts(kind: Kind, found: Any) -> list[Any]:
    names = [name for name, _ in kind.parts]
    parts = [restored(part, found.field(name)) for name, part in kind.parts]
    rows: list[Any] = [dict(zip(names, values, strict=True)) for values in zip(*parts, strict=True)]
    if found.null_count:
        missing = found.is_null().to_pylist()
        return [None if is_null else row for row, is_null in zip(rows, missing, strict=True)]
    return rows
