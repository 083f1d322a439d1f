"""Pydantic models: validated without dropping a field, dumped, described.

A model keeps its own ``extra`` setting; one that has none refuses unknown fields here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

__all__ = ["dump", "model_schema", "validate"]


def dump(value: Any) -> Any:
    """A model's fields as a dict; without computed ones, which the other end would refuse."""
    return value.model_dump(by_alias=True, round_trip=True)


def validate(model: Any, value: Any) -> Any:
    """An instance of ``model`` from a decoded tree.

    Raises:
        ValueError: it does not fit; the message names the fields.
    """
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


def model_schema(model: Any, custom: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """JSON Schema of a model; ``custom`` gives that of a class pydantic knows nothing of."""
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

        def is_instance_schema(self, schema: Any) -> dict[str, Any]:
            return custom(schema["cls"])

        def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
            return {}

    template = f"#/$defs/{model.__name__}.{{model}}"
    result: dict[str, Any] = model.model_json_schema(
        ref_template=template, schema_generator=Generator
    )
    return result
