"""JSON Schema of models."""

from __future__ import annotations

import contextlib
from typing import Any, Never, get_origin, get_type_hints

import msgspec
from msgspec import inspect

from openenv_async import arrays
from openenv_async.errors import InvalidModel
from openenv_async.models.choices import Holder
from openenv_async.models.codec import FORMATS, PayloadCodec
from openenv_async.models.inspection import OBJECTS, custom_kind, described, type_name, walk
from openenv_async.models.pydantic import model_schema

__all__ = ["check_model", "json_schema"]


def json_schema(model: Any) -> dict[str, Any]:
    """JSON Schema of a model.

    An array is ``{"type": "array", "x-ndarray": {"dtype": "<f4"}}``, the dtype only where it is
    declared. Further keys of ``x-ndarray`` (shape, low, high) come from the author::

        Annotated[NDArray[np.uint8], msgspec.Meta(extra_json_schema={"x-ndarray": {...}})]
    """
    read, info = described(model)
    try:
        return _schema(read, info, {})
    except Exception as error:  # defaults and hooks of a model are the author's code
        raise InvalidModel(
            f"{type_name(model)} cannot be a model: no JSON Schema can be made of it: {error}"
        ) from error


def check_model(model: Any) -> dict[str, Any]:
    """The JSON Schema of a model, once every codec of it has been made.

    Raises:
        InvalidModel: the type cannot be a model; the message has the reason and the remedy.
    """
    for format in FORMATS:
        PayloadCodec(model, format)
    return json_schema(model)


def _schema(model: Any, info: inspect.Type, begun: dict[Any, str]) -> dict[str, Any]:
    """The schema of a type as msgspec reads it; ``begun`` has the references to holders."""
    hoisted: dict[str, Any] = {}

    def hook(annotation: Any) -> dict[str, Any]:
        if custom_kind(annotation) == "choice":
            others = () if annotation.others is Never else (annotation.others,)
            return {"anyOf": [inner(kind) for kind in (*annotation.types(), *others)]}
        if custom_kind(annotation) == "holder":
            if annotation not in begun:
                begun[annotation] = f"{annotation.__name__}.{len(begun)}"
                hoisted[begun[annotation]] = _holder_schema(annotation, inner)
            return {"$ref": f"#/$defs/{begun[annotation]}"}
        if custom_kind(annotation) != "pydantic":
            return _custom_schema(annotation)
        schema = model_schema(annotation, _custom_schema)
        for name, definition in schema.pop("$defs", {}).items():
            hoisted[f"{annotation.__name__}.{name}"] = definition
        return schema

    def inner(kind: Any) -> dict[str, Any]:
        made = _schema(kind, inspect.type_info(kind), begun)
        hoisted.update(made.pop("$defs", {}))
        return made

    objects = [part for part in walk(info) if isinstance(part, (*OBJECTS, inspect.NamedTupleType))]
    try:
        (schema, *refs), definitions = msgspec.json.schema_components(
            (model, *(part.cls for part in objects)), schema_hook=hook
        )
    except TypeError:  # a default that JSON cannot say
        return {"type": "object"} if isinstance(info, OBJECTS) else {}
    _add_dtypes(model, schema)
    for part, ref in zip(objects, refs, strict=True):
        definition = definitions[ref["$ref"].rpartition("/")[2]]
        hints = _hints(part.cls)
        if "prefixItems" in definition:
            for field, item in zip(part.fields, definition["prefixItems"], strict=False):
                _add_dtypes(hints.get(field.name), item)
        elif "properties" in definition:
            definition["additionalProperties"] = False
            for field in part.fields:
                _add_dtypes(hints.get(field.name), definition["properties"][field.encode_name])
    definitions = {**definitions, **hoisted}
    return {**schema, "$defs": definitions} if definitions else schema


def _holder_schema(holder: type[Holder], schema_of: Any) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for key, field in holder.fields.items():
        properties[key] = schema_of(field.type)
        if field.default is not msgspec.UNSET:
            with contextlib.suppress(TypeError, ValueError):
                default = msgspec.to_builtins(field.default, str_keys=True)
                properties[key] = {**properties[key], "default": default}
    return {
        "title": holder.cls.__name__,
        "type": "object",
        "properties": properties,
        "required": [key for key, field in holder.fields.items() if field.required],
        "additionalProperties": False,
    }


def _hints(cls: Any) -> dict[str, Any]:
    """The annotations of a class; none where they cannot be evaluated from outside.

    A generic class knows them only unsubstituted: ``NDArray[T]`` stays without a dtype.
    """
    try:
        return get_type_hints(getattr(cls, "__origin__", cls), include_extras=True)
    except (NameError, TypeError):
        return {}


def _add_dtypes(annotation: Any, schema: dict[str, Any]) -> None:
    """Write the dtypes named in ``annotation`` into its schema; msgspec's hook loses them."""
    aliased = getattr(get_origin(annotation), "__value__", None)
    if aliased is not None:  # NDArray from NumPy 2.5 on, a `type` statement
        annotation = aliased[annotation.__args__]
    arguments = getattr(annotation, "__args__", ())
    if custom_kind(annotation) == "array":
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


def _custom_schema(annotation: Any) -> dict[str, Any]:
    """Schema of an array or NumPy scalar type; of anything else the one that says nothing."""
    kind = custom_kind(annotation)
    if kind == "array":
        return {"type": "array", "x-ndarray": {}}
    if kind == "text":
        return {"type": "string"}
    return _scalar_schema(annotation) if kind == "scalar" else {}


def _scalar_schema(cls: Any) -> dict[str, Any]:
    import numpy as np

    for base, name in ((np.bool_, "boolean"), (np.integer, "integer"), (np.floating, "number")):
        if issubclass(cls, base):
            return {"type": name}
    return {"type": "string"} if issubclass(cls, np.str_) else {}
