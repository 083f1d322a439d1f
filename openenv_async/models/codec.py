"""PayloadCodec: one model in one wire format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, Literal, NoReturn, TypeVar

import msgspec

from openenv_async import arrays
from openenv_async.errors import InvalidModel, OpenEnvError, ProtocolError
from openenv_async.models.decoding import (
    dec_hook,
    ext_hook,
    has_large_int,
    with_floats,
    without_scalars,
)
from openenv_async.models.depth import check_json_depth, check_msgpack_depth
from openenv_async.models.encoding import (
    Place,
    json_encoder,
    msgpack_encoder,
    placed_encoder,
    plain_encoder,
)
from openenv_async.models.inspection import BAD_DATA, described, type_name
from openenv_async.models.unknown_fields import is_open, mirror, refuse_unknown, whole_map
from openenv_async.types import MAX_DEPTH

__all__ = ["FORMATS", "Format", "PayloadCodec"]

T = TypeVar("T")

Format = Literal["msgpack", "json", "plain"]
FORMATS: Final[tuple[Format, ...]] = ("msgpack", "json", "plain")


class PayloadCodec(Generic[T]):
    """Encodes and decodes values of one model type in one wire format; made once, thread-safe.

    Attributes:
        encode: value to bytes. Raises ``InvalidModel`` that names the place in the value.
        decode: bytes to value. Raises ``InvalidModel`` when the data does not fit the model,
            ``ProtocolError`` when it is not in the format or nested too deep.
    """

    encode: Callable[[T], bytes]
    decode: Callable[[bytes | memoryview], T]

    def __init__(self, model: Any, format: Format, *, unchecked: bool = False) -> None:
        """Build the codec.

        Args:
            model: the type.
            format: of the bytes.
            unchecked: nobody looked whether what is encoded is of the type. JSON would make text
                of bytes, and of keys, which then may be what the type declares.

        Raises:
            InvalidModel: the type cannot be a model.
        """
        self.model = model
        self.format = format
        self._type, self._info = described(model)
        try:
            if format == "msgpack":
                self.decode = self._msgpack_decoder()
                self.encode = msgpack_encoder(self._info, self.decode)
            elif format == "json":
                self.decode = self._json_decoder(tagged=True)
                self.encode = json_encoder(self._info, self.decode, unchecked)
            else:
                self.decode = self._json_decoder(tagged=False)
                self.encode = plain_encoder(self._info, self.decode)
        except (TypeError, ValueError) as error:
            raise InvalidModel(f"{type_name(model)} cannot be a model: {error}") from error

    def placed(self, place: Place, least: int) -> Callable[[T], bytes]:
        """Return ``encode`` of MessagePack that puts values with large arrays into given memory.

        Args:
            place: gives memory of the size that a value needs, or ``None``.
            least: bytes of the smallest array that counts as large.

        Returns:
            An encoder whose result is that memory, or bytes as those of ``encode``.
        """
        return placed_encoder(self._info, self.decode, place, least)

    def _msgpack_decoder(self) -> Callable[[bytes | memoryview], T]:
        decoder = msgspec.msgpack.Decoder(self._type, ext_hook=ext_hook, dec_hook=dec_hook)
        read: Callable[[bytes | memoryview], T] = decoder.decode
        generic = msgspec.msgpack.Decoder(ext_hook=ext_hook).decode
        guard = self._guard(msgspec.msgpack.Decoder, generic)
        whole = whole_map(self._info)
        limit = MAX_DEPTH

        def decode_closed(data: bytes | memoryview) -> T:
            if len(data) > limit:
                check_msgpack_depth(data, limit)
            try:
                return read(data)
            except BAD_DATA as error:
                return retry(data, error)

        look: Callable[[Any], Any] = generic if guard is None else guard
        header, defaults = (None, ()) if whole is None else whole

        def decode(data: bytes | memoryview) -> T:
            size = len(data)
            if size > limit:
                check_msgpack_depth(data, limit)
            try:
                if not size or data[0] != header:
                    look(data)
                    return read(data)
                value = read(data)
                for name, default in defaults:
                    if getattr(value, name) is default:
                        look(data)  # the field may be missing, with an unknown one in its place
                        break
                return value
            except BAD_DATA as error:
                return retry(data, error)

        def retry(data: bytes | memoryview, error: Exception) -> T:
            # A float field that was given a NumPy scalar, a field of int a large one: rare and
            # slow, but not an error.
            try:
                if defaults and len(data) and data[0] == header:
                    look(data)  # which was put off, and an unknown field comes first
                if isinstance(error, msgspec.ValidationError):
                    tree = generic(data)
                    plain = without_scalars(tree)
                    if plain is not tree or has_large_int(tree):
                        return self._convert(plain)
            except BAD_DATA as second:
                error = second
            _raise_bad_data(error, self.model, "MessagePack")

        return decode_closed if guard is None else decode

    def _json_decoder(self, *, tagged: bool) -> Callable[[bytes | memoryview], T]:
        decoder = msgspec.json.Decoder(self._type, dec_hook=dec_hook)
        read: Callable[[bytes], T] = decoder.decode
        generic = msgspec.json.Decoder().decode
        guard = self._guard(msgspec.json.Decoder, generic)

        def decode(data: bytes | memoryview) -> T:
            octets = data if isinstance(data, bytes) else bytes(data)
            check_json_depth(octets, MAX_DEPTH)
            try:
                # A tag may also be spelt with \u005f: rare, but legal JSON.
                if tagged and (b'"__' in octets or b"\\u005" in octets):
                    return self._from_tree(arrays.untag(generic(octets)))
                if guard is not None:
                    guard(octets)
                return read(octets)
            except BAD_DATA as error:
                return retry(octets, error)

        def retry(octets: bytes, error: Exception) -> T:
            # A float field that was given what JSON cannot write, as a word.
            try:
                if not tagged and (b'"NaN"' in octets or b'Infinity"' in octets):
                    return self._convert(with_floats(self._info, generic(octets)))
            except BAD_DATA as second:
                error = second
            _raise_bad_data(error, self.model, "JSON")

        return decode

    def _guard(self, decoder: Any, generic: Callable[[Any], Any]) -> Callable[[Any], Any] | None:
        """A reader that raises when the payload has a field the model has not."""
        info = self._info
        if not is_open(info):
            return None
        try:
            guard: Callable[[Any], Any] = decoder(mirror(info, {})).decode
        except (TypeError, ValueError):  # such as a TypedDict key with a quote in it
            return lambda data: refuse_unknown(info, generic(data))
        return guard

    def _from_tree(self, tree: Any) -> T:
        try:
            return self._convert(tree)
        except msgspec.ValidationError:
            plain = without_scalars(tree)
            if plain is tree:
                raise
        return self._convert(plain)

    def _convert(self, tree: Any) -> T:
        refuse_unknown(self._info, tree)
        str_keys = self.format != "msgpack"
        value: T = msgspec.convert(tree, self._type, dec_hook=dec_hook, str_keys=str_keys)
        return value


def _raise_bad_data(error: Exception, model: Any, format: str) -> NoReturn:
    if isinstance(error, OpenEnvError):
        raise error
    if isinstance(error, RecursionError | UnicodeDecodeError) or (
        isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError)
    ):
        raise ProtocolError(f"payload is not valid {format}: {error}") from error
    raise InvalidModel(f"payload does not fit {type_name(model)}: {error}") from error
