"""Codecs, schemas and field names for the types that authors use as models.

A model is a dataclass, ``msgspec.Struct``, attrs class, TypedDict, NamedTuple, pydantic model,
``dict``, ``Any`` or a scalar, or a container of these; fields may be ``np.ndarray``,
``NDArray[dtype]`` and NumPy scalars.

Promised in every format: unknown fields are refused, nested ones too; nesting is
bounded before decoding; None stays None. The formats:

- ``msgpack``: everything comes back equal, arrays bit by bit and without a copy.
- ``json``: the same, by tagged objects for what JSON has no word for (see ``arrays``); bytes
  are base64 text where the model declares bytes and tagged everywhere else.
- ``plain``: for people with curl and for upstream clients. Arrays are nested lists, NaN and the
  infinities the texts "NaN", "Infinity" and "-Infinity": null means that none was given. Plain
  data comes back equal; arrays and these floats do where the model types them.

In untyped places (``Any``, a bare ``dict``), models arrive as dicts, sets and tuples as
lists, dates as text; keys of dicts as what they are, in ``plain`` as text. Other containers of
``collections.abc`` (deque, range, views) are written as lists and dicts, subclasses of scalars as
these, paths and addresses as text.

Encoding does not check that the value is of the declared type: what is given is encoded.
``fit_test`` makes a check for callers who want one first, and the other end judges. But nothing
that an object holds is left out in silence. Data that msgspec or pydantic would drop is refused as
``InvalidModel`` where it is sent: a pydantic field that is excluded, private or of a subclass with
more fields, unless it comes back equal (see ``pydantic``); fields of attrs classes that begin with
an underscore; fields with ``init=False`` that were never set; the fields of a dataclass that is a
dict or list too.
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
