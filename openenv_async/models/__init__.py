"""Codecs, schemas and field names for the types that authors use as models.

A model is a dataclass, ``msgspec.Struct``, attrs class, TypedDict, NamedTuple, pydantic model,
``dict``, ``Any`` or a scalar, or a container of these; fields may be ``np.ndarray``,
``NDArray[dtype]`` and NumPy scalars.

What is promised in every format: unknown fields are refused, nested ones too; nesting is
bounded before decoding; None stays None. The formats:

- ``msgpack``: everything comes back equal, arrays bit by bit and without a copy.
- ``json``: the same, by tagged objects for what JSON has no word for (see ``arrays``); bytes
  are base64 text where the model declares bytes and tagged everywhere else.
- ``plain``: for people with curl and for upstream clients. Arrays are nested lists, NaN and
  infinity become null. Plain data comes back equal; arrays do where the model types them.

Where nothing is declared (``Any``, a bare ``dict``), models arrive as dicts, sets and tuples as
lists, and in JSON dates as text and keys of dicts as strings.

Encoding does not check that the value is of the declared type: what is given is encoded.
``fit_test`` makes a check for callers who want one first, and the other end judges. Fields of
attrs classes that begin with an underscore would be dropped by msgspec, so such a class is
refused, as a model and as a value where nothing is declared.
"""

from __future__ import annotations

from openenv_async.models.codec import FORMATS, Format, PayloadCodec
from openenv_async.models.encoding import to_builtins
from openenv_async.models.fitting import fit_test
from openenv_async.models.inspection import field_names
from openenv_async.models.schema import check_model, json_schema

__all__ = [
    "FORMATS",
    "Format",
    "PayloadCodec",
    "check_model",
    "field_names",
    "fit_test",
    "json_schema",
    "to_builtins",
]
