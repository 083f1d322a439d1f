"""``openenv-async drain``: let the episodes of a server end before it is stopped or replaced."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import click

from openenv_async.cli.options import SECONDS, examples, token_option
from openenv_async.cli.output import echo

__all__ = ["drain"]

_LOOK: Final = 0.5


@click.command(
    epilog=examples(
        "drain http://127.0.0.1:8000",
        "drain http://127.0.0.1:8000 --seconds 600 --wait",
    )
)
@click.argument("url")
@click.option(
    "--seconds",
    type=SECONDS,
    metavar="SECONDS",
    help="Time that episodes have to end.  [default: the server's --drain, else 30]",
)
@click.option("--wait", is_flag=True, help="Return when no episode is under way any more.")
@token_option
def drain(url: str, seconds: float | None, wait: bool, token: str | None) -> None:
    """Let the episodes of the server at URL end, and have it begin no other.

    Pools go on at other servers. Asked again, the new time counts. The server runs on, without
    sessions, until it is stopped.

    Exit codes: 0 as asked; 1 the server does not answer, or episodes did not end in time; 2 a wrong
    value.
    """
    from openenv_async.cli.playing import run

    lost = run(_drained(url, seconds, wait, token))
    if lost:
        raise click.ClickException(f"{lost} episodes did not end in time and are lost")


async def _drained(url: str, seconds: float | None, wait: bool, token: str | None) -> int:
    from openenv_async.client.server_info import get_json, post_json

    body = {} if seconds is None else {"seconds": seconds}
    about = await post_json(url, "/drain", body, token=token)
    echo(_line(about))
    while wait and not about["finished"]:
        await asyncio.sleep(_LOOK)
        about = await get_json(url, "/drain", token=token)
        echo(_line(about))
    return int(about["lost"])


def _line(about: dict[str, Any]) -> str:
    if about["finished"]:
        return "drained: no episode is under way"
    return f"draining: {about['playing']} episodes have {about['seconds']:.1f} s to end"
