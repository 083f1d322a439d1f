"""The options that say who plays: ``--policy`` and those of a language model."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from openenv_async.cli.options import import_from_here

__all__ = ["ModelPolicy", "policy_options", "read_policy"]

Command = TypeVar("Command", bound=Callable[..., Any])

_MODELS: Final = ("openai:", "scripted:", "transformers:")
_FILES: Final = (".txt", ".md", ".jinja", ".jinja2", ".prompt")
_TIMEOUT: Final = 300.0
"""Seconds for one reply of a model; the text after ``#`` says otherwise."""
_OPTIONS: Final = (
    click.option(
        "--policy",
        default="random",
        show_default=True,
        metavar="random|MODULE:CALLABLE|openai:MODEL@URL|transformers:FOLDER",
        help="Chooses the actions. A language model is asked at an OpenAI-compatible URL; its key"
        " comes from OPENAI_API_KEY.",
    ),
    click.option("--system", metavar="FILE|TEXT", help="System message of a language model."),
    click.option(
        "--prompt",
        metavar="MODULE:FUNCTION",
        help="Makes what a language model reads of an observation.",
    ),
    click.option(
        "--parser",
        metavar="MODULE:FUNCTION",
        help="Makes an action of a language model's text; no tools are offered then.",
    ),
    click.option(
        "--max-tokens", type=click.IntRange(1), help="Tokens of a language model's reply, at most."
    ),
    click.option("--temperature", type=click.FloatRange(0), help="Of a language model's sampling."),
    click.option(
        "--model-turns",
        type=click.IntRange(1),
        help="Latest replies that a language model is shown again.  [default: all]",
    ),
    click.option(
        "--model-concurrency",
        type=click.IntRange(1),
        help="Calls of the language model at once.  [default: no limit]",
    ),
)
_OF_MODELS: Final = (
    "system",
    "prompt",
    "parser",
    "max_tokens",
    "temperature",
    "model_turns",
    "model_concurrency",
)


def policy_options(command: Command) -> Command:
    """Add ``--policy`` and the options of language models; ``read_policy`` takes them."""
    return functools.reduce(lambda made, option: option(made), reversed(_OPTIONS), command)


@dataclass
class ModelPolicy:
    """A language model that is to play, before the schema of its actions is known.

    Attributes:
        responder: asks the model.
        options: of ``LanguagePolicy``.
    """

    responder: Any
    options: dict[str, Any] = field(default_factory=dict)

    def made(self, schema: Mapping[str, Any], seed: int | None) -> Callable[..., Any]:
        """Return the policy for a server's actions."""
        from openenv_async.rollouts import LanguagePolicy

        return LanguagePolicy(self.responder, schema, seed=seed, **self.options)

    async def check(self) -> None:
        """Find out before anything is played that the model is not there."""
        check = getattr(self.responder, "check", None)
        if check is not None:
            await check()

    async def aclose(self) -> None:
        """Close the model's connections."""
        await self.responder.aclose()


def read_policy(options: dict[str, Any]) -> Callable[..., Any] | ModelPolicy | None:
    """Take the options of the policy out of those of a command, and return what they say.

    Returns:
        A policy, a language model, or ``None`` for random actions, which need the server's schema.

    Raises:
        click.BadParameter: it is none.
    """
    text = options.pop("policy")
    given = {name: options.pop(name) for name in _OF_MODELS}
    given = {name: value for name, value in given.items() if value is not None}
    import_from_here()
    policy = None if text == "random" else _read(text, given)
    if given and not isinstance(policy, ModelPolicy):
        option = f"--{next(iter(given)).replace('_', '-')}"
        raise click.BadParameter(
            "it is of language models: give --policy openai:MODEL@URL", param_hint=option
        )
    return policy


def _read(text: str, given: dict[str, Any]) -> Callable[..., Any] | ModelPolicy:
    from openenv_async.errors import InvalidOption
    from openenv_async.responders import load_responder
    from openenv_async.rollouts import check_policy, load_policy

    try:
        if text.startswith(_MODELS):
            settings = {
                "tokens": "auto",
                "timeout": _TIMEOUT,
                "max_concurrency": given.get("model_concurrency"),
            }
            return _of_model(load_responder(text, **settings), given)
        try:
            policy = load_policy(text)
        except ValueError:
            if not _names_responder(text):
                raise
            return _of_model(load_responder(text), given)
        check_policy(policy)
        return policy
    except (InvalidOption, ValueError, TypeError) as exc:
        raise click.BadParameter(str(exc), param_hint="--policy") from exc


def _names_responder(text: str) -> bool:
    """Return whether ``module:name`` is a responder of the user's own, or a class of them."""
    from openenv_async.errors import TargetNotFound
    from openenv_async.targets.discovery import import_object

    try:
        return hasattr(import_object(text), "respond")
    except TargetNotFound:
        return False


def _of_model(responder: Any, given: Mapping[str, Any]) -> ModelPolicy:
    options: dict[str, Any] = {
        name: given[name] for name in ("max_tokens", "temperature") if name in given
    }
    if "model_turns" in given:
        options["max_turns"] = given["model_turns"]
    if "system" in given:
        options["system"] = _text_of(given["system"])
    for name in ("prompt", "parser"):
        if name in given:
            options[name] = _function(given[name], f"--{name}")
    return ModelPolicy(responder, options)


def _text_of(value: str) -> str:
    """Return a text, or that of a file."""
    path = Path(value)
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as exc:
        if isinstance(exc, UnicodeDecodeError) or path.suffix in _FILES:
            raise click.BadParameter(f"{value}: {exc}", param_hint="--system") from exc
    if path.suffix in _FILES and not any(letter.isspace() for letter in value):
        raise click.BadParameter(f"there is no file {value}", param_hint="--system")
    return value


def _function(text: str, option: str) -> Callable[..., Any]:
    from openenv_async.errors import TargetNotFound
    from openenv_async.targets.discovery import import_object

    try:
        found = import_object(text) if ":" in text else None
    except TargetNotFound as exc:
        raise click.BadParameter(exc.message, param_hint=option) from exc
    if not callable(found) or inspect.ismodule(found):
        raise click.BadParameter(
            f"{text!r} is not a function: write MODULE:FUNCTION", None, None, option
        )
    if inspect.iscoroutinefunction(found):
        raise click.BadParameter(f"{text!r} is async: give a plain function", None, None, option)
    return found  # type: ignore[no-any-return]  # callable, as was checked
