"""Models made of the values of their fields, as these lie in the columns of a frame.

Decoding what was encoded is the measure: what is made here is what that would give, or it is left
to decoding. Made are dataclasses, as msgspec makes them: without ``__init__``; and plain Structs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from openenv_async.errors import InvalidModel
from openenv_async.models.fitting import fit_test
from openenv_async.models.inspection import type_info, walk

__all__ = ["Maker", "maker_of"]


class Maker(NamedTuple):
    """A way from values to a model.

    Attributes:
        names: the fields on the wire, all of them, in the order of the arguments.
        make: called with the value of each field.
        fits: tells whether what was made is surely what decoding would give, for values that are
            numbers and arrays; ``None`` where it always is.
        floats: the fields of which an ``int`` would become a ``float``, so that it does not fit.
    """

    names: tuple[str, ...]
    make: Callable[..., Any]
    fits: Callable[[Any], bool] | None
    floats: frozenset[str]


def maker_of(model: Any) -> Maker | None:
    """Return what makes a model of its fields; ``None`` where only decoding does."""
    try:
        info = type_info(model)
    except InvalidModel:
        return None
    make: Callable[..., Any] | None = None
    match info:
        case inspect.DataclassType():
            make = _maker_of_dataclass(info)
        case inspect.StructType():
            make = _maker_of_struct(info)
        case _:
            return None
    if make is None or not info.fields or hasattr(info.cls, "__post_init__"):
        return None
    takes_any = all(isinstance(field.type, inspect.AnyType) for field in info.fields)
    names = tuple(field.encode_name for field in info.fields)
    floats = frozenset(
        field.encode_name
        for field in info.fields
        if any(isinstance(part, inspect.FloatType) for part in walk(field.type))
    )
    return Maker(names, make, None if takes_any else fit_test(model), floats)


def _maker_of_dataclass(info: inspect.DataclassType) -> Callable[..., Any] | None:
    cls: Any = info.cls
    params = getattr(cls, "__dataclass_params__", None)  # attrs classes have none
    if params is None or cls.__new__ is not object.__new__:
        return None
    if not params.frozen and cls.__setattr__ is not object.__setattr__:
        return None
    names = tuple(field.name for field in info.fields)
    new, put = object.__new__, object.__setattr__
    if len(names) == 1:
        (name,) = names

        def make_of_one(value: Any) -> Any:
            model = new(cls)
            put(model, name, value)
            return model

        return make_of_one

    def make(*values: Any) -> Any:
        model = new(cls)
        for name, value in zip(names, values, strict=True):
            put(model, name, value)
        return model

    return make


def _maker_of_struct(info: inspect.StructType) -> Callable[..., Any] | None:
    cls: Any = info.cls
    is_plain = type(cls) is type(msgspec.Struct) and not info.array_like and info.tag is None
    names = tuple(field.name for field in info.fields)
    # Those that are given by keyword only come behind the others.
    return cls if is_plain and cls.__match_args__ == names else None
