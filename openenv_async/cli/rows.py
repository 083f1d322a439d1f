"""``openenv-async rows``: training rows and calls of the sessions of a gateway that runs."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from openenv_async.cli.agents import GATEWAY_TOKEN_VARIABLE, read_token
from openenv_async.cli.options import examples
from openenv_async.cli.output import echo

__all__ = ["rows"]


@click.command(
    epilog=examples(
        "rows http://127.0.0.1:8100",
        "rows http://127.0.0.1:8100 3f0c5d2a9b7e4c18 --reward 1 --group pears --member 0",
        "rows http://127.0.0.1:8100 3f0c5d2a9b7e4c18 --calls",
    )
)
@click.argument("gateway", metavar="URL")
@click.argument("session", required=False)
@click.option(
    "--gateway-token-file",
    type=click.Path(exists=True, dir_okay=False),
    help=f"File with its admin token; without it ${GATEWAY_TOKEN_VARIABLE} is taken.",
)
@click.option("--reward", type=float, help="Reward of the episode.  [default: none is in the rows]")
@click.option("--group", help="Group of episodes that it is compared with.")
@click.option("--member", type=int, help="Number of the episode in its group.")
@click.option("--calls", is_flag=True, help="Print the calls instead, as they are kept.")
def rows(
    gateway: str,
    session: str | None,
    gateway_token_file: str | None,
    calls: bool,
    **asked: Any,
) -> None:
    """Print the training rows of SESSION of the gateway at URL, one in a line of JSON.

    Without SESSION the open sessions are printed, each with what it spent. Nothing is ended: more
    calls may come, and a session of a journal is there until DELETE /sessions/ID.
    """
    asked = {name: value for name, value in asked.items() if value is not None}
    if asked and (calls or session is None):
        raise click.BadParameter("it is of rows", param_hint=f"--{next(iter(asked))}")
    if calls and session is None:
        raise click.BadParameter("name the session whose calls to print", param_hint="--calls")
    from openenv_async.errors import InvalidOption
    from openenv_async.gateway.remote import RemoteGateway

    token = read_token(gateway_token_file, GATEWAY_TOKEN_VARIABLE, "--gateway-token-file")
    try:
        known = RemoteGateway(gateway, token)
    except InvalidOption as exc:
        raise click.BadParameter(exc.message, param_hint="URL") from exc

    async def read() -> list[str]:
        async with known:
            if session is None:
                return await known.sessions()
            return await (known.calls(session) if calls else known.rows(session, **asked))

    for line in asyncio.run(read()):
        echo(line)
