"""Values to bytes: one encoder per model and format.

msgspec encodes by the value's own type. Changes that it makes without a word are found after it has
encoded, where the model leaves a position untyped: bytes, which would be text in JSON, and private
fields of attrs classes, which would be missing.
"""

from __future__ import annotations

import binascii
import functools
import math
import operator
import os
import re
import struct
import sys
from collections import UserString
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import inspect

from openenv_async import arrays
from openenv_async.errors import InvalidModel, OpenEnvError
from openenv_async.models.decoding import ext_hook
from openenv_async.models.fitting import fit_test_of
from openenv_async.models.foreign import CONTAINERS, plain_form
from openenv_async.models.inspection import (
    BAD_DATA,
    classes,
    fault_of,
    holder_of,
    late_fields,
    may_have_tag,
    travels_whole,
    type_name,
    typed_items,
    walk,
)
from openenv_async.models.pydantic import dump, ignores_unknown, is_model, is_same
from openenv_async.types import MAX_DEPTH

__all__ = [
    "fill",
    "json_encoder",
    "msgpack_encoder",
    "placed_encoder",
    "plain_encoder",
    "to_builtins",
]

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]
Place = Callable[[int, int], memoryview | None]
"""A function that gives memory for a payload: its size, and the bytes before its first array."""

_OCTETS: Final = (bytes, bytearray, memoryview)
_TOKEN_SIZE: Final = 16
"""The header of an Ext that has two bytes: the type, and the code."""
_EXT32: Final = struct.Struct(">BIb")
_MAX_EXT: Final = (1 << 32) - 1
_MAY_HOLD_ARRAYS: Final = (inspect.AnyType, inspect.CustomType)
"""The types whose values may be arrays, or have some in them."""
_LEAVES: Final = frozenset({type(None), bool, int, float, str})
_TEXT: Final = frozenset({str})
_FINITE: Final = frozenset({type(None), bool, int, str, bytes})


def msgpack_encoder(info: inspect.Type, decode: Decode) -> Encode:
    """Encoder of the format ``msgpack``; ``decode`` is the decoder of the same model."""
    return _guarded(info, _pack, decode)


def _pack(value: Any) -> bytes:
    try:
        return _pack_sized(value)
    except OverflowError:  # an integer of more than 64 bits
        return _pack_sized(_with_large_ints(_builtins(value)))


def _pack_sized(value: Any) -> bytes:
    try:
        return _PACK(value)
    except _LargeArray:
        return _pack_around_arrays(value)


class _LargeInt:
    """An integer that MessagePack has no form of its own for; may be a key."""

    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value


def _with_large_ints(tree: Any) -> Any:
    """A tree of builtins with its integers of more than 64 bits marked."""
    if isinstance(tree, dict):
        return {_with_large_ints(key): _with_large_ints(item) for key, item in tree.items()}
    if isinstance(tree, tuple):
        return tuple(map(_with_large_ints, tree))
    if isinstance(tree, list):
        return list(map(_with_large_ints, tree))
    large = type(tree) is int and not -(1 << 63) <= tree < 1 << 64
    return _LargeInt(tree) if large else tree


def _pack_around_arrays(value: Any) -> bytes:
    """``value`` in msgpack, its large arrays put in after the rest has been encoded.

    msgspec would copy them three times, each time into pages that were never touched, and hold
    the GIL meanwhile: tens of milliseconds for 25 MB. Here they are copied once.
    """
    arrays_met: list[tuple[bytes, bytes, Any]] = []

    def hook(item: Any) -> Any:
        if not arrays.is_large_array(item):
            return _pack_hook(item)
        token = os.urandom(_TOKEN_SIZE)  # that nothing else in the value can contain
        arrays_met.append((token, *arrays.ext_pieces(item)))
        return msgspec.msgpack.Ext(arrays.EXT_NDARRAY, token)

    octets = msgspec.msgpack.Encoder(enc_hook=hook).encode(value)
    pieces: list[Any] = []
    at = 0
    for token, head, elements in arrays_met:
        place = octets.index(token, at)
        pieces += octets[at : place - 2], _ext_header(len(head) + len(elements)), head, elements
        at = place + _TOKEN_SIZE
    pieces.append(octets[at:])
    return b"".join(pieces)


def _ext_header(size: int) -> bytes:
    """Return what stands before the payload of an array's Ext."""
    if size > _MAX_EXT:
        raise ValueError(f"an array of {size:,} bytes cannot travel: at most 4 GiB do")
    return _EXT32.pack(0xC9, size, arrays.EXT_NDARRAY)


def placed_encoder(info: inspect.Type, decode: Decode, place: Place, least: int) -> Encode:
    """Encoder of the format ``msgpack`` that puts values with large arrays into given memory.

    Args:
        info: the type.
        decode: the decoder of the same model.
        place: gives memory for the payload of a value.
        least: bytes of the smallest array that counts as large.

    Returns:
        An encoder whose result is the memory that ``place`` gave, or bytes where there is no
        large array or no memory.
    """
    if not any(isinstance(part, _MAY_HOLD_ARRAYS) for part in walk(info)):
        return msgpack_encoder(info, decode)
    return _guarded(info, _placing(place, least), decode)


def _placing(place: Place, least: int) -> Encode:
    """Return an encoder that copies each large array once: to where the payload is wanted."""
    # A token stands for an array until the rest is encoded. Nobody can guess one, and none leaves
    # this function: an array's own bytes cannot contain it.
    token = os.urandom(_TOKEN_SIZE)
    stand_in = msgspec.msgpack.Ext(arrays.EXT_NDARRAY, token)

    def make() -> tuple[Encode, list[Any]]:
        """Return an encoder for one thread at a time, and the large arrays that it met."""
        met: list[Any] = []

        def hook(item: Any) -> Any:
            if arrays.is_large_array(item, least):
                met.append(item)
                return stand_in
            return _pack_hook(item)

        return msgspec.msgpack.Encoder(enc_hook=hook).encode, met

    idle: list[tuple[Encode, list[Any]]] = []

    def encode(value: Any) -> Any:
        try:
            pair = idle.pop()
        except IndexError:
            pair = make()
        pack, met = pair
        try:
            octets = pack(value)
            return written(octets, met) if met else octets
        except OverflowError:  # an integer of more than 64 bits
            return _pack(value)
        finally:
            met.clear()
            idle.append(pair)

    def written(octets: bytes, met: list[Any]) -> Any:
        if len(met) == 1:  # as most have: three pieces and no loop
            found = octets.index(token)
            head, elements = arrays.ext_pieces(met[0])
            before = octets[: found - 2] + _ext_header(len(head) + len(elements)) + head
            after = octets[found + _TOKEN_SIZE :]
            start = len(before)
            end = start + len(elements)
            memory = place(end + len(after), start)
            if memory is None:
                return b"".join((before, elements, after))
            memory[:start] = before
            memory[start:end] = elements
            if after:
                memory[end:] = after
            return memory
        pieces: list[Any] = []
        at = size = first = 0
        for array in met:
            found = octets.index(token, at)
            head, elements = arrays.ext_pieces(array)
            before = octets[at : found - 2] + _ext_header(len(head) + len(elements)) + head
            pieces += before, elements
            first = first or len(before)
            size += len(before) + len(elements)
            at = found + _TOKEN_SIZE
        if at < len(octets):
            pieces.append(octets[at:])
            size += len(octets) - at
        memory = place(size, first)
        if memory is None:
            return b"".join(pieces)
        fill(memory, pieces)
        return memory

    return encode


def fill(memory: memoryview, pieces: Iterable[Any]) -> None:
    """Put pieces of octets into memory, one behind the other; there must be room for them."""
    at = 0
    for piece in pieces:
        end = at + len(piece)
        memory[at:end] = piece
        at = end


def plain_encoder(info: inspect.Type, decode: Decode) -> Encode:
    """Encoder of the format ``plain``; ``decode`` is the decoder of the same model."""
    fast = msgspec.json.Encoder(enc_hook=_plain_hook).encode
    write = msgspec.json.Encoder().encode
    loose_keys = _has(info, inspect.AnyType) or _has_loose_keys(info)

    def encode(value: Any) -> bytes:
        octets = fast(value)
        null = b"null" in octets  # which may stand for NaN
        if (null or loose_keys) and not _is_simple(value, null, loose_keys):
            tree = _builtins(value)
            if loose_keys:
                _refuse_equal_keys(tree)
            if null and _has_nonfinite(tree):
                return write(_with_words(msgspec.json.decode(octets), tree))
        return octets

    return _guarded(info, encode, decode)


def _has_nonfinite(tree: Any) -> bool:
    """Return whether there is a float in a tree of builtins that JSON cannot write."""
    numpy, todo = sys.modules.get("numpy"), [tree]
    while todo:
        part = todo.pop()
        inside: Collection[Any] = ()
        if isinstance(part, dict):
            inside = part.values()
        elif isinstance(part, list | tuple):
            inside = part
        elif isinstance(part, float):  # a NumPy one too
            if not math.isfinite(part):
                return True
        elif numpy is not None and isinstance(part, numpy.ndarray | numpy.floating):
            floats = part if part.dtype.kind == "f" else ()
            if not numpy.isfinite(floats).all():
                return True
        todo += [child for child in inside if type(child) not in _FINITE]
    return False


def _with_words(plain: Any, tree: Any) -> Any:
    """``plain``, read back from JSON, with words where ``tree`` has what JSON cannot write."""
    if isinstance(tree, dict):
        items = zip(plain.items(), tree.values(), strict=True)
        return {key: _with_words(value, origin) for (key, value), origin in items}
    if isinstance(plain, list):
        origins = tree.tolist() if hasattr(tree, "tolist") else tree
        return [_with_words(value, item) for value, item in zip(plain, origins, strict=True)]
    if plain is None and tree is not None:
        number = float(tree)
        return next(
            word for word, float_ in arrays.NONFINITE.items() if repr(float_) == repr(number)
        )
    return plain


def _refuse_equal_keys(tree: Any) -> None:
    """Raise where two keys of a dict are one text in plain JSON."""
    if isinstance(tree, dict):
        if len(msgspec.json.decode(_KEYS(dict.fromkeys(tree)))) < len(tree):
            raise TypeError(f"two of the keys {list(tree)!r} are the same in JSON: use text")
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return
    for child in tree:
        _refuse_equal_keys(child)


def json_encoder(info: inspect.Type, decode: Decode, unchecked: bool) -> Encode:
    """Encoder of the format ``json``: msgspec's own output unless a tag may be needed.

    Args:
        info: the type.
        decode: the decoder of the same model.
        unchecked: whether values may be of another type.
    """
    fast = msgspec.json.Encoder(enc_hook=_refuse).encode
    plain = msgspec.json.Encoder().encode
    untyped = _has(info, inspect.AnyType) or _has_loose_keys(info)
    declares_bytes = _has(info, _BYTES_TYPES)
    looks = unchecked and not untyped and not _has_other_keys(info)
    fits = fit_test_of(info) if looks else None

    def is_open(value: Any) -> bool:
        """Return whether bytes or keys may stand where text is declared, as text in JSON."""
        try:
            return not fits(value)  # type: ignore[misc]  # not asked without it
        except Exception:  # such as a field that was never set
            return True

    def encode(value: Any) -> bytes:
        try:
            octets = fast(value)
        except (_NeedsTags, TypeError):  # a TypeError is about a key, or comes again
            pass
        else:
            null = b"null" in octets  # which may stand for NaN
            loose = untyped if fits is None else is_open(value)
            simple = not (null or loose) or _is_simple(value, null, loose)
            if simple and b'"__' not in octets:  # a key may look like one of our tags
                return octets
        tree = _builtins(value)
        return plain(arrays.tag(_declared_as_text(info, tree) if declares_bytes else tree))

    return _guarded(info, encode, decode)


class _NeedsTags(Exception):
    """The fast JSON encoder met what needs a tagged object."""


def _refuse(value: Any) -> Any:
    raise _NeedsTags


_BYTES_TYPES: Final = (inspect.BytesType, inspect.ByteArrayType, inspect.MemoryViewType)


def _has(info: inspect.Type, kinds: Any) -> bool:
    return any(isinstance(part, kinds) for part in walk(info))


def _has_loose_keys(info: inspect.Type) -> bool:
    """Return whether keys of more than one kind, or of any, are declared somewhere."""
    loose = (inspect.AnyType, inspect.UnionType)
    return any(
        isinstance(part, inspect.DictType) and isinstance(part.key_type, loose)
        for part in walk(info)
    )


def _has_other_keys(info: inspect.Type) -> bool:
    """Return whether keys other than text are declared somewhere."""
    return any(
        isinstance(part, inspect.DictType) and not isinstance(part.key_type, inspect.StrType)
        for part in walk(info)
    )


def _is_simple(value: Any, floats: bool, keys: bool) -> bool:
    """Return whether there is nothing in ``value`` that JSON cannot say.

    Args:
        value: what is sent.
        floats: look for NaN and infinity.
        keys: look for bytes, and for keys other than text.
    """
    try:
        packed = _PACK_SIMPLE(value)
    except BAD_DATA:  # an array, an integer of more than 64 bits
        return False
    if floats and _NONFINITE(packed) is not None:
        return False
    if not keys:
        return True
    try:
        _UNPACK_SIMPLE(packed)
    except BAD_DATA:  # or deeper than that decoder looks
        return not _has_bytes_or_keys(value)
    return True


def _simple_decoder(levels: int) -> Callable[[bytes], Any]:
    """A decoder of texts, numbers, lists and dicts with keys of text, and of nothing else."""
    kind: Any = None | bool | int | float | str
    for _ in range(levels):
        kind = None | bool | int | float | str | list[kind] | dict[str, kind]
    return msgspec.msgpack.Decoder(kind).decode


_PACK_SIMPLE: Final = msgspec.msgpack.Encoder().encode
_UNPACK_SIMPLE: Final = _simple_decoder(6)
_NONFINITE: Final = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]").search
"""A float of MessagePack that is NaN or infinite; it matches other bytes like one."""


def _has_bytes_or_keys(value: Any) -> bool:
    """Return whether there are bytes in ``value``, or keys other than text."""
    if type(value) in _LEAVES:
        return False
    todo = [value]
    for part in todo:  # which grows
        kind = type(part)
        inside: Collection[Any]
        if kind is dict:
            for key in part:
                if type(key) is not str:
                    return True
            inside = part.values()
        elif kind is list or kind is tuple:
            inside = part
        elif isinstance(part, _OCTETS):
            return True
        elif isinstance(part, dict):
            if not _TEXT.issuperset(map(type, part)):
                return True
            inside = part.values()
        else:
            inside = [child for _, child in _children(part)]
        if not _LEAVES.issuperset(map(type, inside)):
            todo += [child for child in inside if type(child) not in _LEAVES]
    return False


def _declared_as_text(info: inspect.Type, tree: Any) -> Any:
    """``tree`` with bytes as base64 where ``info`` declares them: there they need no tag."""
    if isinstance(info, _BYTES_TYPES):
        is_bytes = isinstance(tree, _OCTETS)
        return binascii.b2a_base64(tree, newline=False).decode() if is_bytes else tree
    if isinstance(info, inspect.Metadata):
        return _declared_as_text(info.type, tree)
    if isinstance(info, inspect.UnionType):
        for member in info.types:
            if may_have_tag(member, tree):
                tree = _declared_as_text(member, tree)
        return tree
    changed = {key: _declared_as_text(kind, item) for key, kind, item in typed_items(info, tree)}
    if isinstance(tree, dict):
        return {**tree, **changed}
    return [changed.get(i, item) for i, item in enumerate(tree)] if changed else tree


# -- what is refused ------------------------------------------------------------------------


def _guarded(info: inspect.Type, encode: Encode, decode: Decode) -> Encode:
    """``encode`` with errors that name the place in the value."""
    checks: list[Callable[[Encode], Encode]] = []
    if any(map(late_fields, classes(info))):
        checks.append(_complete)
    if any(map(_runs_code, walk(info))):
        checks.append(functools.partial(_steady, decode=decode))
    if _has(info, inspect.AnyType):
        checks.append(_whole)
    models = {part.cls for part in walk(info) if isinstance(part, inspect.CustomType)}
    loose = [model for model in models if ignores_unknown(model)]
    if loose:
        checks.append(functools.partial(_kept, declared=models, loose=loose))

    # The one call that nearly always does; what it cannot do is tried again with care.
    quick = first = _PACK if encode is _pack else encode
    careful = encode
    for check in checks:
        first, careful = check(first), check(careful)

    def again(value: Any) -> bytes:
        try:
            return careful(value)
        except BAD_DATA as error:
            path, culprit, why = _locate(careful, value)
            message = f"cannot encode {path} ({type(culprit).__name__}): {why or error}"
            raise InvalidModel(message) from error

    def guarded(value: Any) -> bytes:
        try:
            return first(value)
        except _TRIED_AGAIN:
            pass
        return again(value)

    def guarded_plain(value: Any) -> bytes:
        """``guarded`` with ``_whole`` as the only check, in one call for plain values."""
        try:
            octets = quick(value)
            kind: Any = type(value)
            if kind is dict or travels_whole(kind):
                if "attr" not in sys.modules:
                    return octets
                # It may hold an object of attrs, unless it is flat.
                inside = value.values() if kind is dict else _fields_of(kind)(value)
                if _FLAT.issuperset(map(type, inside)) or _is_flat(inside):
                    return octets
        except (*_TRIED_AGAIN, AttributeError):  # the latter of a field that was deleted
            pass
        return again(value)

    return guarded_plain if checks == [_whole] else guarded


_FLAT: Final = set(_LEAVES)
"""Types of values that hold no objects; arrays are added when the first is met."""


def _is_flat(values: Any) -> bool:
    """Return whether there are none but plain values and arrays in these."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        _FLAT.add(numpy.ndarray)
    return all(
        type(each) in _FLAT
        or (type(each) is dict and _is_flat(each.values()))
        or (type(each) in (list, tuple) and _is_flat(each))
        for each in values
    )


def _complete(encode: Encode) -> Encode:
    """``encode`` of models with fields that an instance may lack."""

    def careful(value: Any) -> bytes:
        octets = encode(value)
        return encode(value) if _check_parts(value) else octets

    return careful


def _runs_code(part: inspect.Type) -> bool:
    """Return whether a model of the author's changes its instances when one is made."""
    kind: Any = getattr(part, "cls", None)
    kind = getattr(kind, "cls", kind) if holder_of(part) is not None else kind
    return hasattr(kind, "__post_init__") or hasattr(kind, "__attrs_post_init__")


def _steady(encode: Encode, decode: Decode) -> Encode:
    """``encode`` that refuses what would be another value once it has been made again."""

    def careful(value: Any) -> bytes:
        octets = encode(value)
        try:
            back = decode(octets)
        except OpenEnvError:
            return octets  # it does not fit, which the other end says
        if encode(back) != octets and (place := _difference(value, back, "$")):
            raise TypeError(
                f"{place} would arrive as another value: __post_init__ changes it each time; let"
                " it leave alone what it has made itself"
            )
        return octets

    return careful


def _difference(one: Any, other: Any, path: str) -> str | None:
    """The place where two values of the same types are not equal; None where there is none."""
    if one is other:
        return None
    if type(one) is not type(other):
        numbers = isinstance(one, int | float) and isinstance(other, int | float)
        return path if numbers and one != other and one == one else None
    if isinstance(one, dict):
        pairs = [(f"[{key!r}]", one[key], other[key]) for key in one.keys() & other.keys()]
    elif isinstance(one, list | tuple):
        pairs = [(f"[{i}]", *each) for i, each in enumerate(zip(one, other, strict=False))]
    elif names := _field_names(one):
        none = msgspec.UNSET
        pairs = [(f".{n}", getattr(one, n, none), getattr(other, n, none)) for n in names]
    else:
        differ = not is_same(one, other)
        return path if differ else None
    return next((found for step, a, b in pairs if (found := _difference(a, b, path + step))), None)


def _whole(encode: Encode) -> Encode:
    """``encode`` that refuses what msgspec would encode in part."""

    def careful(value: Any) -> bytes:
        octets = encode(value)
        if "attr" in sys.modules:
            return encode(value) if _check_parts(value) else octets
        # Deeper parts are looked at as their type is declared.
        kind: Any = type(value)
        if kind is dict or travels_whole(kind):
            return octets
        return encode(value) if _check_part(value) else octets

    return careful


def _kept(encode: Encode, declared: Collection[type], loose: Collection[type]) -> Encode:
    """``encode`` that refuses a subclass where a model is declared that drops what it knows not."""

    def careful(value: Any) -> bytes:
        octets = encode(value)
        for part in _objects(value):
            kind = type(part)
            if kind not in declared:
                for base in loose:
                    if isinstance(part, base):
                        _refuse_more_fields(part, base)
        return octets

    return careful


def _refuse_more_fields(part: Any, base: Any) -> None:
    more = [name for name in type(part).model_fields if name not in base.model_fields]
    if more:
        raise TypeError(
            f"the field {type_name(type(part))}.{more[0]} is lost: {type_name(base)} is declared,"
            " which ignores unknown fields; declare the subclass"
        )


def _check_parts(value: Any) -> bool:
    """Return whether a part of ``value`` was completed; raise for one that would be cut."""
    changed = False
    for part in _objects(value):
        changed = _check_part(part) or changed
    return changed


def _check_part(part: Any) -> bool:
    kind: Any = type(part)
    if travels_whole(kind):
        return False
    if fault := fault_of(kind):
        raise TypeError(fault)
    changed = False
    for name in late_fields(kind):
        if not hasattr(part, name):
            raise TypeError(
                f"the field {type_name(kind)}.{name} was never set: set it in __post_init__ or"
                " give it a default"
            )
        if name not in getattr(part, "__dict__", (name,)):  # its class has it, and msgspec not
            object.__setattr__(part, name, getattr(part, name))
            changed = True
    return changed


def _objects(value: Any) -> Iterator[Any]:
    """The parts of ``value`` but dicts and lists and the plain leaves inside them.

    The value was encoded before, and so has no cycles.
    """
    todo = [value]
    while todo:
        part = todo.pop()
        inside: Collection[Any]
        if isinstance(part, dict) and not hasattr(part, "__dataclass_fields__"):
            inside = part.values()
        elif isinstance(part, list | tuple | set | frozenset):
            inside = part
        else:
            yield part
            inside = [child for _, child in _children(part)]
        if not _LEAVES.issuperset(map(type, inside)):
            todo.extend(child for child in inside if type(child) not in _LEAVES)


def _locate(encode: Encode, value: Any) -> tuple[str, Any, str]:
    """The path to the innermost part that cannot be encoded, that part, and why if we know."""
    path = "$"
    around: list[Any] = []
    for _ in range(MAX_DEPTH):
        around.append(value)
        for step, child in _children(value):
            if any(child is outer for outer in around):
                return path + step, child, "it contains itself: send a tree"
            try:
                encode(child)
            except BAD_DATA:
                path += step
                value = child
                break
        else:
            return _locate_key(encode, value, path)
    why = f"it is nested deeper than the {MAX_DEPTH} containers that travel: flatten it"
    return path[:_LONG_PATH] + "…", value, why


_LONG_PATH: Final = 80


def _locate_key(encode: Encode, value: Any, path: str) -> tuple[str, Any, str]:
    """The same, where no part inside ``value`` is to blame: it may be a key."""
    if isinstance(value, Mapping):
        for key in value:
            try:
                encode({key: None})
            except BAD_DATA:
                return f"the key {key!r} of {path}", key, ""
    return path, value, ""


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{i}]", item) for i, item in enumerate(value))
    elif is_model(value):  # not by getattr, which warns of a deprecated field
        yield from ((f".{name}", item) for name, item in value.__dict__.items())
        yield from ((f".{name}", item) for name, item in (value.model_extra or {}).items())
    elif names := _field_names(value):
        yield from ((f".{name}", getattr(value, name)) for name in names if hasattr(value, name))
    elif isinstance(value, Mapping):
        yield from ((f"[{key!r}]", value[key]) for key in value)
    elif isinstance(value, CONTAINERS) and not isinstance(value, _TEXT_LIKE):
        yield from ((f"[{i}]", item) for i, item in enumerate(value))


_TEXT_LIKE: Final = (str, *_OCTETS, UserString, range)


def _field_names(value: Any) -> tuple[str, ...]:
    kind: Any = type(value)
    return _names_of(kind)


@functools.lru_cache(maxsize=4096)
def _names_of(kind: Any) -> tuple[str, ...]:
    """The fields of a model; none of another class."""
    names = (
        getattr(kind, "__struct_fields__", None)
        or getattr(kind, "__dataclass_fields__", None)
        or getattr(kind, "__attrs_attrs__", None)
        or getattr(kind, "model_fields", None)
    )
    if not isinstance(names, tuple | list | Mapping):
        return ()
    return tuple(name if isinstance(name, str) else name.name for name in names)


@functools.lru_cache(maxsize=4096)
def _fields_of(kind: Any) -> Callable[[Any], tuple[Any, ...]]:
    """Return a reader of the values of a model's fields; of another class, one of no leaf."""
    names = () if issubclass(kind, Mapping) or hasattr(kind, "model_fields") else _names_of(kind)
    return operator.attrgetter(*(names or ("__class__",)), *(names or ("__class__",))[:1])


# -- what msgspec does not know -------------------------------------------------------------


class _LargeArray(Exception):
    """The encoder met an array that is better put in afterwards."""


def _fast_pack_hook(value: Any) -> Any:
    if arrays.is_large_array(value):
        raise _LargeArray
    return _pack_hook(value)


def _pack_hook(value: Any) -> Any:
    ext = arrays.to_ext(value)
    if ext is not None:
        return msgspec.msgpack.Ext(*ext)
    if type(value) is _LargeInt:
        return msgspec.msgpack.Ext(arrays.EXT_INT, arrays.int_to_bytes(value.value))
    return _foreign(value)


_KEYS: Final = msgspec.json.Encoder(enc_hook=lambda key: arrays.to_plain(key)).encode
_PACK: Final = msgspec.msgpack.Encoder(enc_hook=_fast_pack_hook).encode
_TRIED_AGAIN: Final = (_LargeArray, *BAD_DATA)


def _plain_hook(value: Any) -> Any:
    if isinstance(value, arrays.numpy_types()):
        return arrays.to_plain(value)
    if value is None or isinstance(value, bool | tuple | frozenset):  # msgspec asks for keys only
        raise TypeError(f"plain JSON has no key {value!r}: use text, or a list of pairs")
    return _bytes_as_text(_builtins(value)) if is_model(value) else _foreign(value)


def _foreign(value: Any) -> Any:
    """Return what msgspec can go on with: a pydantic model's fields, a subclass's plain value.

    Raises:
        TypeError: it is something else; the message has the remedy.
    """
    if not is_model(value):
        return plain_form(value)
    tree = dump(value, _arrives)
    if "attr" in sys.modules:
        _check_parts(tree)
    return tree


def _arrives(tree: Any) -> Any:
    return _UNPACK(_pack(tree))


_UNPACK: Final = msgspec.msgpack.Decoder(ext_hook=ext_hook).decode


def _bytes_as_text(tree: Any) -> Any:
    """Return the plain JSON that pydantic reads back into a field of bytes."""
    if isinstance(tree, bytes):
        return tree.decode()
    if isinstance(tree, dict):
        return {key: _bytes_as_text(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple | set | frozenset):
        return [_bytes_as_text(value) for value in tree]
    return tree


def to_builtins(value: Any) -> Any:
    """``value`` as dicts, lists and scalars; arrays, NumPy scalars and bytes stay as they are.

    Raises:
        InvalidModel: a part of the value has no such form.
    """
    try:
        tree = _builtins(value)
        if "attr" in sys.modules and _check_parts(value):
            tree = _builtins(value)
    except BAD_DATA as error:
        raise InvalidModel(f"cannot convert {type_name(type(value))}: {error}") from error
    return tree


def _builtins(value: Any) -> Any:
    builtin_types = (*_OCTETS, *arrays.numpy_types())
    return msgspec.to_builtins(value, builtin_types=builtin_types, enc_hook=_builtins_hook)


def _builtins_hook(value: Any) -> Any:
    # A subclass of an array has a name of its own; what is left is a plain array.
    return _base_array(value) if isinstance(value, arrays.numpy_types()) else _foreign(value)


def _base_array(value: Any) -> Any:
    import numpy as np

    if isinstance(value, np.ma.MaskedArray):
        arrays.to_ext(value)  # raises
    return np.asarray(value)
