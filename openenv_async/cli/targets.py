"""TARGET of the commands: text that names anything that can be played on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from openenv_async.cli.options import complete_target, import_from_here, is_url

if TYPE_CHECKING:
    from openenv_async.targets.resolve import ResolvedTarget

__all__ = ["resolved", "target_argument"]

Command = TypeVar("Command", bound=Callable[..., Any])


def target_argument(
    *, default: str | None = None, required: bool = True
) -> Callable[[Command], Command]:
    """Add the argument TARGET, given as ``target``: one text, or a list of several URLs.

    Several URLs are arguments of their own, or one with commas.

    Args:
        default: the target where none is given.
        required: whether there must be one; else ``target`` is ``None`` without.
    """

    def read(
        ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
    ) -> str | list[str] | None:
        given = [part for text in value for part in _parts(text)]
        if len(given) > 1:
            for each in given:
                if not is_url(each):
                    message = f"several targets are URLs of servers, {each!r} is not one"
                    raise click.BadParameter(message, ctx, param)
            return given
        return given[0] if given else default

    def decorate(command: Command) -> Command:
        argument = click.argument(
            "target",
            nargs=-1,
            required=required and default is None,
            callback=read,
            metavar="TARGET..." if required and default is None else "[TARGET]...",
            shell_complete=complete_target,
        )
        return argument(command)

    return decorate


def _parts(text: str) -> list[str]:
    """Return the URLs of a text with commas; other text is one target."""
    parts = [part.strip() for part in text.split(",")]
    return [part for part in parts if part] if len(parts) > 1 and is_url(parts[0]) else [text]


def resolved(
    given: str | list[str], params: Mapping[str, Any] | None, token: str | None, entry: str
) -> ResolvedTarget:
    """Return the target that was given.

    A token is for servers that run: the environment variable may be set for others.

    Raises:
        click.BadParameter: it names nothing, or takes no params.
    """
    from openenv_async.errors import InvalidOption, TargetNotFound, WrongTarget
    from openenv_async.targets.resolve import resolve

    import_from_here()
    path = Path(given) if given == "." else given
    try:
        target = resolve(path, entry=entry)
    except (TargetNotFound, WrongTarget, InvalidOption) as exc:
        raise click.BadParameter(exc.message, param_hint="TARGET") from exc
    try:
        target = target.with_arguments(params)
    except InvalidOption as exc:
        raise click.BadParameter(exc.message, param_hint="--param") from exc
    return target.with_arguments(token=token) if target.kind in ("url", "urls") else target
