"""Unions of models, which msgspec reads only where each member carries a tag.

A union of dataclasses, attrs classes, Structs without tags, TypedDicts or pydantic models is read
by its fields: the sender writes every field of what it sends, so that the set of keys tells the
member. Members with the same fields must differ in a field of ``Literal``; where they do not, the
union is refused when the codec is made. A class with such a union in a field is read field by
field, through a ``Holder``.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, Union

import msgspec
from msgspec import inspect

__all__ = ["Choice", "Field", "Holder", "Member", "literal_values", "with_choices"]


@dataclass(frozen=True, slots=True)
class Member:
    """A model of a union.

    Attributes:
        type: the model.
        info: its description.
        names: its fields on the wire.
        required: those without a default.
        words: the values that a field can have, of fields that tell the member.
    """

    type: Any
    info: inspect.Type
    names: frozenset[str]
    required: frozenset[str]
    words: dict[str, frozenset[Any]]

    def may_be(self, tree: dict[Any, Any]) -> bool:
        """Return whether an object may be this model, by its keys and telling words."""
        return self.required <= tree.keys() <= self.names and all(
            tree[name] in tuple(words) for name, words in self.words.items() if name in tree
        )


class _OfAny(type):
    """msgspec checks that what a hook made is an instance; here the hook has seen to it."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return True


class Choice(metaclass=_OfAny):
    """Stands for a union in a type that msgspec reads; a subclass for each union.

    Attributes:
        members: the models of the union.
        others: the union of what else is in it.
    """

    members: ClassVar[tuple[Member, ...]]
    others: ClassVar[Any]

    @classmethod
    def types(cls) -> tuple[Any, ...]:
        """The models of the union."""
        return tuple(member.type for member in cls.members)

    @classmethod
    def read(cls, tree: Any, convert: Callable[[Any, Member | None], Any]) -> Any:
        """The member that a decoded tree is.

        Raises:
            ValueError: it is none, or more than one.
        """
        if not isinstance(tree, dict):
            return convert(tree, None)
        fitting = [member for member in cls.members if member.may_be(tree)]
        exact = [member for member in fitting if member.names == tree.keys()]
        if len(exact or fitting) == 1:
            return convert(tree, (exact or fitting)[0])
        known = "; ".join(
            f"{member.type.__name__} ({', '.join(sorted(member.names)) or 'no field'})"
            for member in cls.members
        )
        keys = ", ".join(map(str, tree)) or "none"
        count = "more than one" if fitting else "none"
        raise ValueError(f"Object with the fields {keys} is {count} of {known}")


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a class that is read field by field.

    Attributes:
        name: the attribute.
        type: as msgspec reads it.
        info: its description.
        required: whether it has no default.
        default: for the schema; UNSET where there is none that it could say.
    """

    name: str
    type: Any
    info: inspect.Type
    required: bool
    default: Any


class Holder(metaclass=_OfAny):
    """Stands for a class with a ``Choice`` in a field; a subclass for each such class.

    Attributes:
        cls: the class.
        fields: by their names on the wire.
    """

    cls: ClassVar[Any]
    fields: ClassVar[dict[str, Field]]

    @classmethod
    def read(cls, tree: Any, convert: Callable[[Any, Field], Any]) -> Any:
        """An instance of the class from a decoded tree.

        Raises:
            ValueError: a field is missing, unknown or does not fit.
        """
        if not isinstance(tree, dict):
            raise ValueError(f"Expected `object`, got `{type(tree).__name__}`")
        values: dict[str, Any] = {}
        for key in tree:
            if key not in cls.fields:
                raise ValueError(f"Object contains unknown field `{key}`")
        for key, field in cls.fields.items():
            if key in tree:
                try:
                    values[field.name] = convert(tree[key], field)
                except (msgspec.ValidationError, ValueError) as error:
                    raise ValueError(f"{error} - in the field `{key}`") from error
            elif field.required:
                raise ValueError(f"Object missing required field `{key}`")
        return cls._made(values)

    @classmethod
    def _made(cls, values: dict[str, Any]) -> Any:
        kind: Any = cls.cls
        fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
        late = {field.name for field in fields if not field.init} & values.keys()
        made = kind(**{name: item for name, item in values.items() if name not in late})
        for name in late:
            object.__setattr__(made, name, values[name])
        return made


Describe = Callable[[Any], tuple[inspect.Type, Member | None]]


def with_choices(model: Any, describe: Describe) -> Any:
    """``model`` with a ``Choice`` for each union in it that msgspec does not read.

    Args:
        model: a type, such as ``A | B`` or ``list[A | B]``; what lies inside classes stays.
        describe: gives the description of a type, and of a model the member that it makes.

    Raises:
        TypeError: the members of a union cannot be told apart.
    """
    origin, arguments = typing.get_origin(model), typing.get_args(model)
    if isinstance(model, type) and not arguments:
        return _holder(model, describe)
    if origin is Literal or not arguments:
        return model
    if hasattr(model, "__metadata__"):
        inner = with_choices(model.__origin__, describe)
        return model if inner is model.__origin__ else typing.Annotated[inner, *model.__metadata__]
    if origin in (Union, types.UnionType):
        if _is_read(model) is True:
            return model
        return _choice(arguments, describe)
    made = tuple(with_choices(argument, describe) for argument in arguments)
    return model if made == arguments else origin[made]


def _is_read(model: Any) -> bool | str:
    """Return whether msgspec reads a type, or why not."""
    try:
        inspect.type_info(model)
    except (TypeError, NameError) as error:
        return str(error)
    return True


_HOLDERS: Final[dict[Any, Any]] = {}


def _holder(cls: Any, describe: Describe) -> Any:
    """A holder for a class with a union that msgspec does not read; the class itself otherwise."""
    if cls in _HOLDERS:
        return _HOLDERS[cls]
    why = _is_read(cls)
    if why is True or ("Type unions" not in str(why) and "all Struct types" not in str(why)):
        return cls
    fields = _fields(cls)
    if fields is None:
        return cls
    hints = typing.get_type_hints(cls, include_extras=True)
    if any(isinstance(hint, dataclasses.InitVar) for hint in hints.values()):
        raise TypeError("dataclasses with `InitVar` fields are not supported")
    # A field may be of the class itself: what a union asks of it is there before the fields are.
    made: Any = _OfAny(cls.__name__, (Holder,), {"cls": cls})
    made.fields = {
        key: Field(name, hints[name], inspect.AnyType(), required, default)
        for key, name, required, default in fields
    }
    _HOLDERS[cls] = made
    try:
        for key, field in made.fields.items():
            read = with_choices(field.type, describe)
            made.fields[key] = dataclasses.replace(field, type=read, info=inspect.type_info(read))
    except BaseException:
        del _HOLDERS[cls]
        raise
    return made


def _fields(cls: Any) -> list[tuple[str, str, bool, Any]] | None:
    """Name on the wire, attribute, whether required, and default of a class's fields."""
    unset = msgspec.UNSET
    if dataclasses.is_dataclass(cls):
        missing = dataclasses.MISSING
        return [
            (
                *(field.name, field.name),
                field.default is missing and field.default_factory is missing,
                unset if field.default is missing else field.default,
            )
            for field in dataclasses.fields(cls)
        ]
    if hasattr(cls, "__attrs_attrs__"):
        nothing = sys.modules["attr"].NOTHING
        return [
            (
                *(field.name, field.name),
                field.default is nothing,
                field.default if isinstance(field.default, str | int | float) else unset,
            )
            for field in cls.__attrs_attrs__
        ]
    if issubclass(cls, msgspec.Struct):
        if cls.__struct_config__.array_like or cls.__struct_config__.tag is not None:
            return None
        return [
            (
                *(field.encode_name, field.name),
                field.required,
                unset if field.default is msgspec.NODEFAULT else field.default,
            )
            for field in msgspec.structs.fields(cls)
        ]
    if typing.is_typeddict(cls):
        return [(name, name, name in cls.__required_keys__, unset) for name in cls.__annotations__]
    return None


@functools.lru_cache(maxsize=256)
def _choice(arguments: tuple[Any, ...], describe: Describe) -> Any:
    members: list[Member] = []
    others: list[Any] = []
    for argument in arguments:
        member = None if argument is type(None) else describe(argument)[1]
        if member is None:
            others.append(with_choices(argument, describe))
        else:
            members.append(member)
    rest: Any = Union[tuple(others)] if others else typing.Never  # noqa: UP007 # made at run time
    if not members or (len(members) == 1 and others in ([], [types.NoneType])):
        # msgspec says what is wrong with it, if something is
        return Union[(*(member.type for member in members), *others)]
    if others:
        info = describe(rest)[0]
        maps = inspect.DictType | inspect.AnyType
        if isinstance(info, maps) or any(isinstance(t, maps) for t in getattr(info, "types", ())):
            raise TypeError("a dict beside models cannot be told from them; use Any for all")
    for i, one in enumerate(members):
        for other in members[:i]:
            if one.names == other.names and not _told_apart(one, other):
                raise TypeError(
                    f"{other.type.__name__} and {one.type.__name__} have the same fields and"
                    " cannot be told apart: give each a field such as"
                    f" kind: Literal[{one.type.__name__.lower()!r}]"
                )
    name = " | ".join(getattr(argument, "__name__", str(argument)) for argument in arguments)
    return _OfAny(name, (Choice,), {"members": tuple(members), "others": rest})


def _told_apart(one: Member, other: Member) -> bool:
    both = one.words.keys() & other.words.keys()
    return any(one.words[name].isdisjoint(other.words[name]) for name in both)


def literal_values(annotation: Any) -> frozenset[Any] | None:
    """The values of a ``Literal``; None for another type."""
    if isinstance(annotation, inspect.Metadata):
        return literal_values(annotation.type)
    if isinstance(annotation, inspect.LiteralType):
        return frozenset(annotation.values)
    if hasattr(annotation, "__metadata__"):
        return literal_values(annotation.__origin__)
    if typing.get_origin(annotation) is Literal:
        return frozenset(typing.get_args(annotation))
    return None
