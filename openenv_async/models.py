"""Codecs, schemas and field names for the types that authors use as models.

A model is a dataclass, ``msgspec.Struct``, attrs class, TypedDict, NamedTuple, pydantic model,
``dict``, ``Any`` or a scalar, or a container of these; fields may be ``np.ndarray``,
``NDArray[dtype]`` and NumPy scalars.

What is promised in every format: unknown fields are refused, nested ones too; nesting is
bounded before decoding; None stays None. The formats:

- ``msgpack``: everything comes back equal, arrays bit by bit and without a copy.
- ``json``: the same, by tagged objects for what JSON has no word for (see ``arrays``).
- ``plain``: for people with curl and for upstream clients. Arrays are nested lists, NaN and
  infinity become null. Plain data comes back equal; arrays do where the model types them.

msgspec ignores unknown fields of all but Structs, so a *mirror* of the model is made once: the
same shape of Structs with ``forbid_unknown_fields`` whose leaves stay raw. A payload is read
with the mirror (0.1 µs), then for good. pydantic models keep their own ``extra`` setting; one
that has none refuses unknown fields here.

Encoding does not check that the value is of the declared type: what is given is encoded, and
the other end judges. Fields of attrs classes that begin with an underscore would be dropped by
msgspec, so such a class is refused as a model.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, Literal, NoReturn, TypeVar, Union, get_type_hints

import msgspec
from msgspec import inspect

from openenv_async import arrays
from openenv_async.depth import check_json_depth, check_msgpack_depth
from openenv_async.errors import InvalidModel, OpenEnvError, ProtocolError
from openenv_async.types import MAX_DEPTH

__all__ = ["Format", "PayloadCodec", "field_names", "json_schema", "to_builtins"]

T = TypeVar("T")

Format = Literal["msgpack", "json", "plain"]

_Object = inspect.DataclassType | inspect.TypedDictType | inspect.StructType
_OBJECTS: Final = (inspect.DataclassType, inspect.TypedDictType, inspect.StructType)
_ARRAYS: Final = (
    inspect.ListType,
    inspect.SetType,
    inspect.FrozenSetType,
    inspect.VarTupleType,
)

# What msgspec, NumPy, pydantic and a model's own __post_init__ or validators raise on bad data.
_BAD_DATA: Final = (
    msgspec.MsgspecError,
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    AttributeError,
    AssertionError,
    RecursionError,
)


class PayloadCodec(Generic[T]):
    """Encodes and decodes values of one model type in one wire format; made once, thread-safe.

    Attributes:
        encode: value to bytes. Raises ``InvalidModel`` that names the place in the value.
        decode: bytes to value. Raises ``InvalidModel`` when the data does not fit the model,
            ``ProtocolError`` when it is not in the format or nested too deep.
    """

    encode: Callable[[T], bytes]
    decode: Callable[[bytes | memoryview], T]

    def __init__(self, model: Any, format: Format) -> None:
        """Build the codec.

        Raises:
            InvalidModel: the type cannot be a model.
        """
        self.model = model
        self.format = format
        self._info = _type_info(model)
        try:
            if format == "msgpack":
                self.encode = _encoder(msgspec.msgpack.Encoder(enc_hook=_pack_hook).encode)
                self.decode = self._msgpack_decoder()
            elif format == "json":
                self.encode = _encoder(_tagged_encoder())
                self.decode = self._json_decoder(tagged=True)
            else:
                self.encode = _encoder(msgspec.json.Encoder(enc_hook=_plain_hook).encode)
                self.decode = self._json_decoder(tagged=False)
        except (TypeError, ValueError) as error:
            raise InvalidModel(f"{_name(model)} cannot be a model: {error}") from error

    def _msgpack_decoder(self) -> Callable[[bytes | memoryview], T]:
        decoder = msgspec.msgpack.Decoder(self.model, ext_hook=_ext_hook, dec_hook=_dec_hook)
        read: Callable[[bytes | memoryview], T] = decoder.decode
        generic = msgspec.msgpack.Decoder(ext_hook=_ext_hook).decode
        guard = self._guard(msgspec.msgpack.Decoder, generic)
        limit = MAX_DEPTH

        def retry(data: bytes | memoryview, error: Exception) -> T:
            # A float field that was given a NumPy scalar: rare and slow, but not an error.
            try:
                if isinstance(error, msgspec.ValidationError):
                    tree = generic(data)
                    plain = _without_scalars(tree)
                    if plain is not tree:
                        _refuse_unknown(self._info, plain, "$")
                        return self._convert(plain)
            except _BAD_DATA as second:
                error = second
            _raise_bad_data(error, self.model, "MessagePack")

        def decode(data: bytes | memoryview) -> T:
            if len(data) > limit:
                check_msgpack_depth(data, limit)
            try:
                return read(data)
            except _BAD_DATA as error:
                return retry(data, error)

        if guard is None:
            return decode

        def decode_guarded(data: bytes | memoryview) -> T:
            if len(data) > limit:
                check_msgpack_depth(data, limit)
            try:
                guard(data)
                return read(data)
            except _BAD_DATA as error:
                return retry(data, error)

        return decode_guarded

    def _json_decoder(self, *, tagged: bool) -> Callable[[bytes | memoryview], T]:
        decoder = msgspec.json.Decoder(self.model, dec_hook=_dec_hook)
        read: Callable[[bytes], T] = decoder.decode
        generic = msgspec.json.Decoder().decode
        guard = self._guard(msgspec.json.Decoder, generic)

        def decode(data: bytes | memoryview) -> T:
            octets = data if isinstance(data, bytes) else bytes(data)
            check_json_depth(octets, MAX_DEPTH)
            try:
                # A tag may also be spelt with \u005f: rare, but legal JSON.
                if tagged and (b'"__' in octets or b"\\u005" in octets):
                    tree = arrays.untag(generic(octets))
                    _refuse_unknown(self._info, tree, "$")
                    try:
                        return self._convert(tree)
                    except msgspec.ValidationError:
                        plain = _without_scalars(tree)
                        if plain is tree:
                            raise
                        return self._convert(plain)
                if guard is not None:
                    guard(octets)
                return read(octets)
            except _BAD_DATA as error:
                _raise_bad_data(error, self.model, "JSON")

        return decode

    def _guard(self, decoder: Any, generic: Callable[[Any], Any]) -> Callable[[Any], Any] | None:
        """A reader that raises when the payload has a field the model has not."""
        info = self._info
        if not _is_open(info):
            return None
        try:
            guard: Callable[[Any], Any] = decoder(_mirror(info, {})).decode
        except (TypeError, ValueError):  # such as a TypedDict key with a quote in it
            return lambda data: _refuse_unknown(info, generic(data), "$")
        return guard

    def _convert(self, tree: Any) -> T:
        str_keys = self.format != "msgpack"
        value: T = msgspec.convert(tree, self.model, dec_hook=_dec_hook, str_keys=str_keys)
        return value


def _raise_bad_data(error: Exception, model: Any, format: str) -> NoReturn:
    if isinstance(error, OpenEnvError):
        raise error
    if isinstance(error, RecursionError | UnicodeDecodeError) or (
        isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError)
    ):
        raise ProtocolError(f"payload is not valid {format}: {error}") from error
    raise InvalidModel(f"payload does not fit {_name(model)}: {error}") from error


# -- encoding -----------------------------------------------------------------------------


def _encoder(encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    def guarded(value: Any) -> bytes:
        try:
            return encode(value)
        except _BAD_DATA as error:
            path, culprit = _locate(encode, value)
            message = f"cannot encode {path} ({type(culprit).__name__}): {error}"
            raise InvalidModel(message) from error

    return guarded


def _locate(encode: Callable[[Any], bytes], value: Any) -> tuple[str, Any]:
    """The innermost part of ``value`` that cannot be encoded, and the path to it."""
    path = "$"
    for _ in range(MAX_DEPTH):
        for step, child in _children(value):
            try:
                encode(child)
            except _BAD_DATA:
                path += step
                value = child
                break
        else:
            break
    return path, value


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{i}]", item) for i, item in enumerate(value))
    elif not isinstance(value, type):
        names = getattr(value, "__struct_fields__", None) or [
            getattr(field, "name", field)  # pydantic's fields are names, the others' have them
            for field in getattr(type(value), "__dataclass_fields__", None)
            or getattr(type(value), "__attrs_attrs__", None)
            or getattr(type(value), "model_fields", None)
            or ()
        ]
        yield from ((f".{name}", getattr(value, name)) for name in names if hasattr(value, name))


def _pack_hook(value: Any) -> Any:
    ext = arrays.to_ext(value)
    if ext is not None:
        return msgspec.msgpack.Ext(*ext)
    return _foreign(value, bytes)


def _plain_hook(value: Any) -> Any:
    if isinstance(value, arrays.numpy_types()):
        return arrays.to_plain(value)
    return _foreign(value, _as_text)


def _as_text(value: bytes) -> str:
    # What pydantic reads back from plain JSON into a field of bytes.
    return value.decode()


class _NeedsTags(Exception):
    """The fast JSON encoder met what needs a tagged object."""


def _tagged_encoder() -> Callable[[Any], bytes]:
    """Native JSON: msgspec's own output unless something in the value may need a tag."""

    def refuse(value: Any) -> Any:
        raise _NeedsTags

    fast = msgspec.json.Encoder(enc_hook=refuse).encode
    plain = msgspec.json.Encoder().encode

    def verbatim_hook(value: Any) -> Any:
        if isinstance(value, arrays.numpy_types()):  # a subclass: its exact type is a builtin
            return _base_array(value)
        return _foreign(value, lambda octets: arrays.Verbatim(arrays.tag_bytes(octets)))

    def encode(value: Any) -> bytes:
        try:
            octets = fast(value)
        except _NeedsTags:
            pass
        else:
            # null may stand for NaN, and a key may look like one of our tags.
            if b"null" not in octets and b'"__' not in octets:
                return octets
        builtin_types = (arrays.Verbatim, *arrays.numpy_types())
        tree = msgspec.to_builtins(value, builtin_types=builtin_types, enc_hook=verbatim_hook)
        return plain(arrays.tag(tree))

    return encode


def _base_array(value: Any) -> Any:
    import numpy as np

    if isinstance(value, np.ma.MaskedArray):
        arrays.to_ext(value)  # raises
    return np.asarray(value)


def _foreign(value: Any, from_bytes: Callable[[bytes], Any]) -> Any:
    """A pydantic model as a dict of builtins; anything else is a TypeError with the remedy."""
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        # round_trip leaves computed fields out, which the other end would have to refuse
        tree = value.model_dump(by_alias=True, round_trip=True)
        return tree if from_bytes is bytes else _map_bytes(tree, from_bytes)
    raise TypeError(
        f"a value of type {type(value).__module__}.{type(value).__qualname__} cannot travel:"
        " use plain types, arrays or one of the model types"
        " (dataclass, Struct, attrs, TypedDict, pydantic)"
    )


def _map_bytes(tree: Any, function: Callable[[bytes], Any]) -> Any:
    if isinstance(tree, bytes):
        return function(tree)
    if isinstance(tree, dict):
        return {key: _map_bytes(value, function) for key, value in tree.items()}
    if isinstance(tree, list | tuple | set | frozenset):
        return [_map_bytes(value, function) for value in tree]
    return tree


def to_builtins(value: Any) -> Any:
    """``value`` as dicts, lists and scalars; arrays, NumPy scalars and bytes stay as they are.

    Raises:
        InvalidModel: a part of the value has no such form.
    """
    builtin_types = (bytes, bytearray, *arrays.numpy_types())

    def hook(part: Any) -> Any:
        if isinstance(part, arrays.numpy_types()):
            return _base_array(part)
        return _foreign(part, bytes)

    try:
        return msgspec.to_builtins(value, builtin_types=builtin_types, enc_hook=hook)
    except _BAD_DATA as error:
        raise InvalidModel(f"cannot convert {_name(type(value))}: {error}") from error


# -- decoding -----------------------------------------------------------------------------


def _ext_hook(code: int, payload: memoryview) -> Any:
    if code == arrays.EXT_NDARRAY or code == arrays.EXT_NPSCALAR:
        return arrays.from_ext(code, payload)
    return msgspec.msgpack.Ext(code, bytes(payload))


def _dec_hook(annotation: Any, value: Any) -> Any:
    kind = _custom_kind(annotation)
    if kind == "array":
        return arrays.as_array(annotation, value)
    if kind == "scalar":
        return arrays.as_scalar(annotation, value)
    if kind == "pydantic":
        return _validate(annotation, value)
    raise ValueError(f"{_name(annotation)} is not a type that travels")


def _custom_kind(annotation: Any) -> Literal["array", "scalar", "pydantic"] | None:
    """What a type that msgspec does not know is to us."""
    cls = getattr(annotation, "__origin__", annotation)
    if isinstance(cls, type):
        numpy, pydantic = sys.modules.get("numpy"), sys.modules.get("pydantic")
        if numpy is not None and cls is numpy.ndarray:
            return "array"
        if numpy is not None and issubclass(cls, numpy.generic):
            return "scalar"
        if pydantic is not None and issubclass(cls, pydantic.BaseModel):
            return "pydantic"
    return None


def _validate(model: Any, value: Any) -> Any:
    import pydantic

    try:
        result = value if isinstance(value, model) else model.model_validate(value)
    except pydantic.ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc'])) or model.__name__}: {item['msg']}"
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise ValueError("; ".join(problems)) from error
    _refuse_dropped(result, value, model.__name__)
    return result


def _refuse_dropped(result: Any, raw: Any, path: str) -> None:
    """Raise for every field in ``raw`` that is not in the pydantic model made from it."""
    if isinstance(raw, dict):
        fields = getattr(type(result), "model_fields", None)
        if fields is not None:
            names = {
                alias: name
                for name, field in fields.items()
                for alias in (name, field.alias, *_aliases(field.validation_alias))
            }
            if "extra" not in type(result).model_config:
                for key in raw:
                    if key not in names:
                        raise ValueError(
                            f"Object contains unknown field `{key}` - at {path}"
                            " (set extra in the model's config to change this)"
                        )
            for key, item in raw.items():
                if key in names:
                    _refuse_dropped(getattr(result, names[key], None), item, f"{path}.{key}")
        elif dataclasses.is_dataclass(result):
            for key, item in raw.items():
                if key not in result.__dataclass_fields__:
                    raise ValueError(f"Object contains unknown field `{key}` - at {path}")
                _refuse_dropped(getattr(result, key, None), item, f"{path}.{key}")
        elif isinstance(result, dict):
            if len(raw) > len(result):  # a TypedDict
                unknown = ", ".join(f"`{key}`" for key in raw if key not in result)
                raise ValueError(f"Object contains unknown field {unknown} - at {path}")
            for key, item in raw.items():
                _refuse_dropped(result.get(key), item, f"{path}.{key}")
    elif isinstance(raw, list | tuple) and isinstance(result, list | tuple):
        for i, (item, original) in enumerate(zip(result, raw, strict=False)):
            _refuse_dropped(item, original, f"{path}[{i}]")


def _aliases(alias: Any) -> list[str]:
    """Top-level names that a pydantic validation alias reads."""
    if alias is None:
        return []
    if isinstance(alias, str):
        return [alias]
    if hasattr(alias, "choices"):
        return [name for choice in alias.choices for name in _aliases(choice)]
    return [str(alias.path[0])]


def _without_scalars(tree: Any) -> Any:
    """``tree`` with NumPy scalars as Python's; the same object when there are none."""
    if isinstance(tree, dict):
        items = {key: _without_scalars(value) for key, value in tree.items()}
        return items if any(items[key] is not tree[key] for key in tree) else tree
    if isinstance(tree, list):
        values = [_without_scalars(value) for value in tree]
        same = all(new is old for new, old in zip(values, tree, strict=True))
        return tree if same else values
    types = arrays.numpy_types()
    if types and isinstance(tree, types[1:]):
        scalar: Any = tree
        return scalar.item()
    return tree


# -- unknown fields -----------------------------------------------------------------------


def _parts(info: inspect.Type) -> tuple[inspect.Type, ...]:
    """The types directly inside a type."""
    if isinstance(info, (*_OBJECTS, inspect.NamedTupleType)):
        return tuple(field.type for field in info.fields)
    if isinstance(info, _ARRAYS):
        return (info.item_type,)
    if isinstance(info, inspect.TupleType):
        return info.item_types
    if isinstance(info, inspect.DictType):
        return (info.value_type,)
    if isinstance(info, inspect.UnionType):
        return info.types
    if isinstance(info, inspect.Metadata):
        return (info.type,)
    return ()


def _walk(info: inspect.Type) -> Iterator[inspect.Type]:
    """Every type reachable from ``info``, each once (types may refer to themselves)."""
    seen: set[int] = set()
    todo = [info]
    while todo:
        part = todo.pop()
        if id(part) not in seen:
            seen.add(id(part))
            yield part
            todo.extend(_parts(part))


def _is_open(info: inspect.Type) -> bool:
    """Whether msgspec would drop a field somewhere in this type without a word."""
    return any(
        isinstance(part, _OBJECTS)
        and not (isinstance(part, inspect.StructType) and part.forbid_unknown_fields)
        for part in _walk(info)
    )


def _mirror(info: inspect.Type, made: dict[Any, Any]) -> Any:
    """A type that accepts what ``info`` does and more, but no unknown field."""
    if not _is_open(info):
        return msgspec.Raw
    if isinstance(info, (*_OBJECTS, inspect.NamedTupleType)):
        return _mirror_object(info, made)
    parts = tuple(_mirror(part, made) for part in _parts(info))
    if isinstance(info, _ARRAYS):
        return list[parts[0]]  # type: ignore[valid-type] # made at run time
    if isinstance(info, inspect.TupleType):
        return tuple[parts]  # type: ignore[valid-type] # made at run time
    if isinstance(info, inspect.DictType):
        return dict[Any, parts[0]]  # type: ignore[valid-type] # made at run time
    if isinstance(info, inspect.UnionType):
        return Union[tuple(_mirror_member(part, made) for part in info.types)]  # noqa: UP007
    return parts[0]


def _mirror_object(info: Any, made: dict[Any, Any]) -> Any:
    if info.cls in made:
        return made[info.cls]
    fields = {f"f{i}": field for i, field in enumerate(info.fields)}
    options: dict[str, Any] = {"forbid_unknown_fields": True}
    if isinstance(info, inspect.StructType):
        options |= {"array_like": info.array_like, "tag_field": info.tag_field, "tag": info.tag}
    elif isinstance(info, inspect.NamedTupleType):
        options["array_like"] = True
    mirror = msgspec.defstruct(
        getattr(info.cls, "__name__", "Mirror"),
        [(name, msgspec.Raw, None) for name in fields],
        rename={name: field.encode_name for name, field in fields.items()},
        gc=False,
        **options,
    )
    made[info.cls] = mirror
    # msgspec reads annotations when the decoder is made: until then a type may name itself.
    for name, field in fields.items():
        mirror.__annotations__[name] = _mirror(field.type, made)
    return mirror


_PLAIN_TYPES: Final[dict[type[inspect.Type], Any]] = {
    inspect.NoneType: None,
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.StrType: str,
    inspect.BytesType: bytes,
    inspect.ByteArrayType: bytes,
    inspect.MemoryViewType: bytes,
}


def _mirror_member(info: inspect.Type, made: dict[Any, Any]) -> Any:
    """The mirror inside a union, where a raw member would swallow the others."""
    if _is_open(info):
        return _mirror(info, made)
    if isinstance(info, inspect.EnumType):
        return info.cls
    if isinstance(info, inspect.LiteralType):
        return Literal[info.values]
    if isinstance(info, inspect.Metadata):
        return _mirror_member(info.type, made)
    if isinstance(info, inspect.StructType):
        return info.cls
    if isinstance(info, (*_ARRAYS, inspect.TupleType, inspect.NamedTupleType)):
        return list[msgspec.Raw]
    if isinstance(info, inspect.DictType):
        return dict[Any, msgspec.Raw]
    plain = _PLAIN_TYPES.get(type(info), _PLAIN_TYPES)
    if plain is _PLAIN_TYPES:
        raise TypeError("no mirror for this union")  # read the slow way
    return plain


def _refuse_unknown(info: inspect.Type, tree: Any, path: str) -> None:
    """The mirror's work on a decoded tree: slower, for what has no mirror."""
    if isinstance(info, _OBJECTS):
        tag = info.tag if isinstance(info, inspect.StructType) else None
        if isinstance(info, inspect.StructType) and info.array_like:
            if isinstance(tree, list):
                rest = tree if tag is None else tree[1:]
                if len(rest) > len(info.fields):
                    raise msgspec.ValidationError(f"Array has unknown items - at `{path}`")
                for i, (field, item) in enumerate(zip(info.fields, rest, strict=False)):
                    _refuse_unknown(field.type, item, f"{path}[{i}]")
        elif isinstance(tree, dict):
            names = {field.encode_name: field.type for field in info.fields}
            for key, item in tree.items():
                if key in names:
                    _refuse_unknown(names[key], item, f"{path}.{key}")
                elif tag is None or key != getattr(info, "tag_field", None):
                    raise msgspec.ValidationError(
                        f"Object contains unknown field `{key}` - at `{path}`"
                    )
    elif isinstance(info, inspect.UnionType):
        for member in info.types:
            if _has_tag(member, tree):
                _refuse_unknown(member, tree, path)
    elif isinstance(info, inspect.DictType):
        if isinstance(tree, dict):
            for item in tree.values():
                _refuse_unknown(info.value_type, item, f"{path}[...]")
    elif isinstance(info, inspect.Metadata):
        _refuse_unknown(info.type, tree, path)
    elif isinstance(tree, list | tuple):
        parts = _parts(info)
        kinds = parts * len(tree) if isinstance(info, _ARRAYS) else parts
        for i, (kind, item) in enumerate(zip(kinds, tree, strict=False)):
            _refuse_unknown(kind, item, f"{path}[{i}]")


def _has_tag(info: inspect.Type, tree: Any) -> bool:
    """Whether ``tree`` may be this member of a union, as far as its tag tells."""
    if not isinstance(info, inspect.StructType) or info.tag is None:
        return True
    if info.array_like:
        return isinstance(tree, list) and tree[:1] == [info.tag]
    return isinstance(tree, dict) and tree.get(info.tag_field) == info.tag


# -- description --------------------------------------------------------------------------


def _name(model: Any) -> str:
    return model.__qualname__ if isinstance(model, type) else str(model)


def _type_info(model: Any) -> inspect.Type:
    try:
        info = inspect.type_info(model)
    except (TypeError, ValueError, NameError, AttributeError) as error:
        raise InvalidModel(f"{_name(model)} cannot be a model: {error}") from error
    for part in _walk(info):
        if isinstance(part, inspect.CustomType) and _custom_kind(part.cls) is None:
            raise InvalidModel(
                f"{_name(model)} cannot be a model: {_name(part.cls)} is not a type that travels;"
                " use plain types, arrays or one of the model types"
            )
        if isinstance(part, inspect.DataclassType) and hasattr(part.cls, "__attrs_attrs__"):
            for field in part.fields:
                if field.name.startswith("_"):
                    raise InvalidModel(
                        f"{_name(model)} cannot be a model: the attrs field"
                        f" {_name(part.cls)}.{field.name} would not travel; rename it"
                    )
    return info


def field_names(model: Any) -> frozenset[str] | None:
    """The names on the wire that a model accepts; None when it accepts any, or has no fields."""
    info = _type_info(model)
    if isinstance(info, inspect.CustomType) and _custom_kind(info.cls) == "pydantic":
        if info.cls.model_config.get("extra") == "allow":  # type: ignore[attr-defined] # a BaseModel
            return None
        fields = info.cls.model_fields  # type: ignore[attr-defined] # a BaseModel
        return frozenset(field.alias or name for name, field in fields.items())
    if isinstance(info, (*_OBJECTS, inspect.NamedTupleType)):
        return frozenset(field.encode_name for field in info.fields)
    return None


def json_schema(model: Any) -> dict[str, Any]:
    """JSON Schema of a model.

    An array is ``{"type": "array", "x-ndarray": {"dtype": "<f4"}}``, the dtype only where it is
    declared. Further keys of ``x-ndarray`` (shape, low, high) come from the author::

        Annotated[NDArray[np.uint8], msgspec.Meta(extra_json_schema={"x-ndarray": {...}})]
    """
    info = _type_info(model)
    hoisted: dict[str, Any] = {}

    def hook(annotation: Any) -> dict[str, Any]:
        kind = _custom_kind(annotation)
        if kind == "array":
            return {"type": "array", "x-ndarray": {}}
        if kind == "scalar":
            return _scalar_schema(annotation)
        schema = _pydantic_schema(annotation)
        for name, definition in schema.pop("$defs", {}).items():
            hoisted[f"{annotation.__name__}.{name}"] = definition
        return schema

    objects = [
        part for part in _walk(info) if isinstance(part, (*_OBJECTS, inspect.NamedTupleType))
    ]
    try:
        (schema, *refs), definitions = msgspec.json.schema_components(
            (model, *(part.cls for part in objects)), schema_hook=hook
        )
    except TypeError:  # a default that JSON cannot say
        return {"type": "object"} if isinstance(info, _OBJECTS) else {}
    _add_dtypes(model, schema)
    for part, ref in zip(objects, refs, strict=True):
        definition = definitions[ref["$ref"].rpartition("/")[2]]
        # a generic class knows its hints only unsubstituted: NDArray[T] stays without a dtype
        hints = get_type_hints(getattr(part.cls, "__origin__", part.cls), include_extras=True)
        if "prefixItems" in definition:
            for field, item in zip(part.fields, definition["prefixItems"], strict=False):
                _add_dtypes(hints[field.name], item)
        elif "properties" in definition:
            definition["additionalProperties"] = False
            for field in part.fields:
                _add_dtypes(hints.get(field.name), definition["properties"][field.encode_name])
    definitions = {**definitions, **hoisted}
    return {**schema, "$defs": definitions} if definitions else schema


def _add_dtypes(annotation: Any, schema: dict[str, Any]) -> None:
    """Write the dtypes named in ``annotation`` into its schema; msgspec's hook loses them."""
    arguments = getattr(annotation, "__args__", ())
    if _custom_kind(annotation) == "array":
        dtype = arrays.array_dtype(annotation)
        if dtype in arrays.numpy_types() and "x-ndarray" in schema:
            import numpy as np

            schema["x-ndarray"].setdefault("dtype", np.dtype(dtype).str)
        return
    for member in schema.get("anyOf", ()):
        _add_dtypes(annotation, member)
    if "anyOf" in schema:
        return
    children = [schema[key] for key in ("items", "additionalProperties") if key in schema]
    if "prefixItems" in schema:
        for argument, child in zip(arguments, schema["prefixItems"], strict=False):
            _add_dtypes(argument, child)
    elif "x-ndarray" in schema:
        for argument in arguments:  # of Optional or Annotated
            _add_dtypes(argument, schema)
    else:
        for argument in arguments:
            for child in children:
                if isinstance(child, dict):
                    _add_dtypes(argument, child)


def _scalar_schema(cls: Any) -> dict[str, Any]:
    import numpy as np

    for base, name in ((np.bool_, "boolean"), (np.integer, "integer"), (np.floating, "number")):
        if issubclass(cls, base):
            return {"type": name}
    return {"type": "string"} if issubclass(cls, np.str_) else {}


def _pydantic_schema(model: Any) -> dict[str, Any]:
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

        def is_instance_schema(self, schema: Any) -> dict[str, Any]:
            kind = _custom_kind(schema["cls"])
            if kind == "array":
                return {"type": "array", "x-ndarray": {}}
            return _scalar_schema(schema["cls"]) if kind == "scalar" else {}

        def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
            return {}

    template = f"#/$defs/{model.__name__}.{{model}}"
    result: dict[str, Any] = model.model_json_schema(
        ref_template=template, schema_generator=Generator
    )
    return result
