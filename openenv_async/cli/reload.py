"""``openenv-async reload``: have a server read its file again."""

from __future__ import annotations

import json
from typing import Any, Final

import click

from openenv_async.cli.options import examples, token_option
from openenv_async.cli.output import echo

__all__ = ["reload"]

_TIMEOUT: Final = 120.0
"""Seconds that the environments have to be read."""


@click.command(epilog=examples("reload http://127.0.0.1:8000 --token-file admin.txt"))
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="Print what the server answers.")
@token_option
def reload(url: str, as_json: bool, token: str | None) -> None:
    """Have the server at URL, begun with --config, read its file again.

    Tokens, quotas, limits and deadlines change at once; new environments are served, removed ones
    drain. No session is lost but those of a removed token. SIGHUP does the same.

    Exit codes: 0 as asked; 1 the server does not answer, or the file is wrong and nothing changed;
    2 a wrong value.
    """
    from openenv_async.cli.playing import run
    from openenv_async.client.server_info import post_json

    told = run(post_json(url, "/reload", {}, token=token, timeout=_TIMEOUT))
    echo(json.dumps(told) if as_json else "\n".join(_lines(told)))


def _lines(told: dict[str, Any]) -> list[str]:
    lines = [
        f"{what} {kind}: {', '.join(names)}"
        for kind in ("environments", "tokens")
        for what, names in told[kind].items()
        if names
    ]
    lines += [
        f"{name} needs a new start of the server for: {', '.join(settings)}"
        for name, settings in told["needs_restart"].items()
    ]
    return lines or ["nothing has changed"]
