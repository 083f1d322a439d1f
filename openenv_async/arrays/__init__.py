"""NumPy arrays and scalars on the wire.

In msgpack an array is an Ext of code 1 and a NumPy scalar one of code 2. Both have the same
payload::

    u8            n = length of the dtype string
    n bytes       dtype string, ASCII: NumPy's ``dtype.str``, such as ``<f4``, ``|u1``, ``>i2``,
                  ``<M8[ns]``, ``<U5`` (UCS-4), ``|S3``
    u8            ndim (0 for a scalar)
    ndim x u64    shape, little-endian
    rest          the elements in C order, exactly product(shape) * itemsize bytes

An integer of more than 64 bits is an Ext of code 3: two's complement, big-endian, 1,024 bytes at
most.

In native JSON the same things are tagged objects, each with one key::

    {"__ndarray__": [dtype, [shape...], base64 of the elements]}
    {"__npscalar__": [dtype, base64 of the element]}
    {"__float__": "nan" | "inf" | "-inf"}
    {"__bytes__": base64}           in untyped places, and in pydantic models, which read text
                                    as bytes; where bytes are declared they are base64 text
    {"__items__": [[key, value], ...]}   a dict with a key other than text; a list for a key is
                                    the tuple that it was
    {"__escaped__": {key: value}}   an object that really has one of these six as its only key

Decoding copies nothing from msgpack: an array is a read-only view that keeps the message it
came in alive and may be unaligned; call ``.copy()`` to keep a small array out of a large
message, or to write to it. NumPy is imported when the first array is met.
"""

from __future__ import annotations

from openenv_async.arrays.ext import (
    EXT_INT,
    EXT_NDARRAY,
    EXT_NPSCALAR,
    ext_pieces,
    from_ext,
    int_from_bytes,
    int_to_bytes,
    is_large_array,
    numpy_types,
    to_ext,
)
from openenv_async.arrays.ext import parts as array_parts
from openenv_async.arrays.tags import tag, untag
from openenv_async.arrays.typed import NONFINITE, array_dtype, as_array, as_scalar, to_plain

__all__ = [
    "EXT_INT",
    "EXT_NDARRAY",
    "EXT_NPSCALAR",
    "NONFINITE",
    "array_dtype",
    "array_parts",
    "as_array",
    "as_scalar",
    "ext_pieces",
    "from_ext",
    "int_from_bytes",
    "int_to_bytes",
    "is_large_array",
    "numpy_types",
    "tag",
    "to_ext",
    "to_plain",
    "untag",
]
