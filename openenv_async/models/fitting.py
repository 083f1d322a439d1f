"""Tests, made once per type, of whether a value is surely what its annotation says.

Rules:

- Yes means that the value is of the type throughout, but for the middle of long
  containers: of those the first and last elements are looked at.
- No means "not surely": only decoding what was encoded can tell, which costs as much as encoding.
  So a test may be cheap and strict: exact types, no constraints.
- A pydantic model validates itself when it is made and is believed.
"""

from __future__ import annotations

import datetime
import decimal
import keyword
import sys
import typing
import uuid
from collections.abc import Callable
from itertools import islice
from typing import Any, Final, Never

from msgspec import inspect

from openenv_async import arrays
from openenv_async.models.choices import Choice, Holder
from openenv_async.models.inspection import (
    choice_of,
    custom_kind,
    holder_of,
    late_fields,
    type_info,
)

__all__ = ["fit_test", "fit_test_of"]

Test = Callable[[Any], bool]

_AT_EACH_END: Final = 32
"""Elements of a long container that are looked at, at its start and at its end."""
_ROWS_AT_EACH_END: Final = 4
"""The same where the elements are containers themselves."""
_LEAVES: Final[dict[type, type]] = {
    inspect.NoneType: type(None),
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.StrType: str,
    inspect.BytesType: bytes,
    inspect.ByteArrayType: bytearray,
    inspect.DateTimeType: datetime.datetime,
    inspect.DateType: datetime.date,
    inspect.TimeType: datetime.time,
    inspect.TimeDeltaType: datetime.timedelta,
    inspect.UUIDType: uuid.UUID,
    inspect.DecimalType: decimal.Decimal,
}
_LISTS: Final[dict[type, type]] = {
    inspect.ListType: list,
    inspect.SetType: set,
    inspect.FrozenSetType: frozenset,
    inspect.VarTupleType: tuple,
}
_BOUNDS: Final = (
    *("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length"),
    "tz",
)


def fit_test(model: Any) -> Test | None:
    """A test of whether a value surely is what ``model`` says; ``None`` where anything is.

    It may raise what the value's own attributes raise.
    """
    return _Maker().test(type_info(model), model)


def fit_test_of(info: inspect.Type) -> Test | None:
    """``fit_test`` of a type that was read already; it knows no dtypes of arrays."""
    return _Maker().test(info)


class _Maker:
    """The maker of one model's tests; a type that refers to itself is met again by its name."""

    def __init__(self) -> None:
        self._made: dict[int, Test] = {}

    def test(self, info: inspect.Type, hint: Any = None) -> Test | None:
        """The test of a type; ``None`` where anything is of it.

        Args:
            info: the type.
            hint: the annotation, where it is known: only there is the dtype of an array.
        """
        info = _bare(info)
        if isinstance(info, inspect.CustomType) and not (choice_of(info) or holder_of(info)):
            return _of_custom(info, _array_in(hint))
        if isinstance(info, inspect.AnyType):
            return None
        kinds = _leaf_types(info)
        if kinds is not None:
            if len(kinds) == 1:
                (only,) = kinds
                return lambda value: type(value) is only
            return lambda value: type(value) in kinds
        known = self._made.get(id(info))
        if known is not None:
            return known

        def later(value: Any) -> bool:  # for a type inside itself
            return test(value)

        self._made[id(info)] = later
        test = self._made[id(info)] = self._of(info, hint)
        return test

    def _of(self, info: inspect.Type, hint: Any) -> Test:
        if isinstance(info, inspect.UnionType):
            return self._of_union(info, hint)
        if isinstance(info, inspect.DataclassType | inspect.StructType | inspect.NamedTupleType):
            return self._of_object(info)
        if isinstance(info, inspect.TypedDictType):
            return self._of_typed_dict(info)
        if isinstance(info, inspect.DictType):
            return self._of_dict(info)
        if type(info) in _LISTS:
            return self._of_items(_LISTS[type(info)], info.item_type)  # type: ignore[attr-defined]  # all of _LISTS have it
        if (choice := choice_of(info)) is not None:
            return self._of_choice(choice)
        if (holder := holder_of(info)) is not None:
            return self._of_holder(holder)
        if isinstance(info, inspect.EnumType):
            enum = info.cls
            return lambda value: type(value) is enum
        if isinstance(info, inspect.LiteralType):
            return _of_literal(info)
        if isinstance(info, inspect.TupleType):
            return self._of_tuple(info)
        return lambda value: False

    def _of_union(self, info: inspect.UnionType, hint: Any) -> Test:
        tests = [self.test(member, hint) for member in info.types]
        if None in tests:
            return lambda value: True
        return lambda value: any(test(value) for test in tests)  # type: ignore[misc]  # none is None

    def _of_choice(self, choice: type[Choice]) -> Test:
        """The test of the member whose class the value has; a union of others has its own."""
        tests = [self.test(member.info) for member in choice.members]
        if choice.others is not Never:
            tests.append(self.test(type_info(choice.others)))
        return lambda value: any(test is None or test(value) for test in tests)

    def _of_holder(self, holder: type[Holder]) -> Test:
        cls = holder.cls
        tests = [
            (field.name, test)
            for field in holder.fields.values()
            if (test := self.test(field.info)) is not None
        ]
        return lambda value: (
            type(value) is cls and all(test(getattr(value, name, None)) for name, test in tests)
        )

    def _of_object(self, info: Any) -> Test:
        """One expression over the fields: a call of its own for each would cost more."""
        cls = getattr(info.cls, "__origin__", info.cls)
        names: dict[str, Any] = {"cls": cls, "type": type}
        late = late_fields(cls)
        names |= {"getattr": getattr, "unset": object()}
        parts = ["type(v) is cls"]
        hints = _hints(cls)
        for number, field in enumerate(info.fields):
            if not field.name.isidentifier() or keyword.iskeyword(field.name):
                return lambda value: False
            kind = _bare(field.type)
            if isinstance(kind, inspect.AnyType):
                continue
            leaves = _leaf_types(kind)
            name = f"t{number}"
            item = f"v.{field.name}"
            if field.name in late:  # which an instance may lack
                item = f"getattr(v, {field.name!r}, unset)"
            if leaves is None:
                test = self.test(kind, hints.get(field.name))
                if test is not None:
                    names[name] = test
                    parts.append(f"{name}({item})")
            elif len(leaves) == 1:
                (names[name],) = leaves
                parts.append(f"type({item}) is {name}")
            else:
                names[name] = leaves
                parts.append(f"type({item}) in {name}")
        made: Test = eval(f"lambda v: {' and '.join(parts)}", names)
        return made

    def _of_typed_dict(self, info: inspect.TypedDictType) -> Test:
        tests = [
            (field.encode_name, field.required, self.test(field.type)) for field in info.fields
        ]
        known = {name for name, _, _ in tests}

        def test(value: Any) -> bool:
            if type(value) is not dict or not known.issuperset(value):
                return False
            for name, required, of_item in tests:
                if name not in value:
                    if required:
                        return False
                elif of_item is not None and not of_item(value[name]):
                    return False
            return True

        return test

    def _of_dict(self, info: inspect.DictType) -> Test:
        keys_fit, values_fit = self._all(info.key_type), self._all(info.value_type)

        def test(value: Any) -> bool:
            if type(value) is not dict:
                return False
            if len(value) <= 2 * _AT_EACH_END:
                return (keys_fit is None or keys_fit(value)) and (
                    values_fit is None or values_fit(value.values())
                )
            return (keys_fit is None or keys_fit(islice(value, 2 * _AT_EACH_END))) and (
                values_fit is None or values_fit(islice(value.values(), 2 * _AT_EACH_END))
            )

        if values_fit is None and _leaf_types(info.key_type) == frozenset({str}):
            return _is_dict_of_names
        return test

    def _of_items(self, kind: Any, item: inspect.Type) -> Test:
        items_fit = self._all(item)
        rows = type(_bare(item)) in (*_LISTS, inspect.TupleType, inspect.DictType)
        ends = _ROWS_AT_EACH_END if rows else _AT_EACH_END

        def test(value: Any) -> bool:
            if type(value) is not kind:
                return False
            if items_fit is None:
                return True
            if len(value) <= 2 * ends:
                return items_fit(value)
            if kind is set or kind is frozenset:
                return items_fit(islice(value, 2 * ends))
            return items_fit((*value[:ends], *value[-ends:]))

        return test

    def _of_tuple(self, info: inspect.TupleType) -> Test:
        tests = [self.test(item) for item in info.item_types]

        def test(value: Any) -> bool:
            return (
                type(value) is tuple
                and len(value) == len(tests)
                and all(
                    of_item is None or of_item(item)
                    for of_item, item in zip(tests, value, strict=True)
                )
            )

        return test

    def _all(self, info: inspect.Type) -> Test | None:
        """The test of an iterable of values of a type; ``None`` where anything is of it."""
        leaves = _leaf_types(info)
        if leaves is not None:
            return lambda values: leaves.issuperset(map(type, values))
        test = self.test(info)
        return None if test is None else lambda values: all(map(test, values))


def _is_dict_of_names(value: Any) -> bool:
    """Return whether it is a dict whose keys are text: the usual one, so without further calls."""
    if type(value) is not dict:
        return False
    for key in value if len(value) <= 2 * _AT_EACH_END else islice(value, 2 * _AT_EACH_END):
        if type(key) is not str:  # all() costs three times as much
            return False
    return True


def _of_literal(info: inspect.LiteralType) -> Test:
    known = {(type(value), value) for value in info.values}
    kinds = {kind for kind, _ in known}
    return lambda value: type(value) in kinds and (type(value), value) in known


def _of_custom(info: inspect.CustomType, array: Any) -> Test:
    """The test of an array, a NumPy scalar or a pydantic model; ``array`` is its annotation."""
    cls: Any = getattr(info.cls, "__origin__", info.cls)
    if custom_kind(info.cls) != "array":
        return lambda value: type(value) is cls
    if array is cls:
        return lambda value: type(value) is cls
    dtype = arrays.array_dtype(array)
    if dtype is None or not _is_exact(dtype):
        return lambda value: False
    wanted = sys.modules["numpy"].dtype(dtype)
    return lambda value: type(value) is cls and value.dtype == wanted


def _array_in(hint: Any) -> Any:
    """The annotation of an array, also one of ``Annotated`` or a union; ``None`` if there is none.

    With two of them in a union each value is decoded to tell.
    """
    if custom_kind(hint) == "array":
        return hint
    found = [array for part in typing.get_args(hint) if (array := _array_in(part)) is not None]
    return found[0] if len(found) == 1 else None


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def _is_exact(dtype: Any) -> bool:
    """Return whether a dtype names one kind of element and size, as ``np.number`` does not."""
    numpy = sys.modules["numpy"]
    try:
        return bool(numpy.dtype(dtype).type is dtype)
    except TypeError:
        return False


def _bare(info: inspect.Type) -> inspect.Type:
    """The type without schema metadata."""
    while isinstance(info, inspect.Metadata):
        info = info.type
    return info


def _leaf_types(info: inspect.Type) -> frozenset[type] | None:
    """The exact types of a leaf, or of a union of leaves; ``None`` where a value decides."""
    info = _bare(info)
    if isinstance(info, inspect.UnionType):
        found: set[type] = set()
        for member in info.types:
            kinds = _leaf_types(member)
            if kinds is None:
                return None
            found |= kinds
        return frozenset(found)
    leaf = _LEAVES.get(type(info))
    if leaf is None or any(getattr(info, bound, None) is not None for bound in _BOUNDS):
        return None
    numpy = sys.modules.get("numpy")
    bases: dict[type, tuple[Any, ...]] = {}
    if numpy is not None:  # its scalars travel, and are read where Python's are declared
        bases = {
            bool: (numpy.bool_,),
            int: (numpy.integer,),
            float: (numpy.integer, numpy.floating),
        }
    exact = {leaf, int} if leaf is float else {leaf}
    for base in bases.get(leaf, ()):
        exact.update(_subclasses(base))
    return frozenset(exact)


def _subclasses(kind: type) -> set[type]:
    return {kind}.union(*map(_subclasses, kind.__subclasses__()))
