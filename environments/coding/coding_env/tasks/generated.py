"""The tasks that the templates make."""

from __future__ import annotations

import functools
import random
import string
from collections.abc import Callable
from typing import Any, Final

from coding_env.tasks.model import Args, FunctionTask
from coding_env.tasks.templates import TEMPLATES, Template, Variant

__all__ = ["GENERATED", "make", "source_of"]

_EXAMPLES: Final = 3


def source_of(template: Template, variant: Variant) -> str:
    """The solution's source with a variant's parameters in it."""
    return string.Template(template.source).substitute(variant).lstrip()


def make(template: Template, variant: Variant) -> FunctionTask:
    """One task; its examples follow from its name."""
    source = source_of(template, variant)
    number = template.variants.index(variant) + 1
    name = f"{template.name.replace('_', '-')}-{number}"
    rng = random.Random(name)
    return FunctionTask(
        name,
        template.split,
        template.difficulty,
        template.name,
        template.signature,
        string.Template(template.text).substitute(variant),
        _Solved(template.name, source),
        _examples(template, variant, rng),
        template.edges,
        functools.partial(_drawn, template, variant),
        source,
    )


def _drawn(template: Template, variant: Variant, rng: random.Random) -> Args:
    return template.draw(rng, variant)


def _examples(template: Template, variant: Variant, rng: random.Random) -> list[Args]:
    """Arguments to show: none twice, and none that every episode tests."""
    found: list[Args] = []
    while len(found) < _EXAMPLES:
        args = template.draw(rng, variant)
        if args not in found and args not in template.edges:
            found.append(args)
    return found


class _Solved:
    """The function of a source of this package, made when it is first called."""

    def __init__(self, name: str, source: str) -> None:
        self._name, self._source = name, source
        self._function: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        if self._function is None:
            namespace: dict[str, Any] = {}
            exec(compile(self._source, f"<{self._name}>", "exec"), namespace)
            self._function = namespace[self._name]
        return self._function(*args)


GENERATED: Final = tuple(
    make(template, variant) for template in TEMPLATES for variant in template.variants
)
