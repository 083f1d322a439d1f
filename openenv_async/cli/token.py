"""``openenv-async token``: a new named token, and the lines for the file of a server."""

from __future__ import annotations

import json
import secrets

import click

from openenv_async.cli.options import examples
from openenv_async.cli.output import echo

__all__ = ["token"]


@click.command(
    epilog=examples(
        "token research",
        "token operations --admin",
        "token research --json",
    )
)
@click.argument("name")
@click.option("--admin", is_flag=True, help="Let it drain and reload the server, and see all.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def token(name: str, admin: bool, as_json: bool) -> None:
    """Make a token called NAME; print it once, and the line for the file of serve --config.

    The file has its digest alone: nobody who reads it can use it. The token has 256 random bits.

    Exit codes: 0 as asked; 2 a wrong value.
    """
    from openenv_async.server.callers import digest_of

    made = f"oe_{secrets.token_urlsafe(32)}"
    digest = f"sha256:{digest_of(made).hex()}"
    if as_json:
        echo(json.dumps({"name": name, "token": made, "digest": digest, "admin": admin}))
        return
    line = f"  {json.dumps(name)}: {{digest: {json.dumps(digest)}{', admin: true' * admin}}}"
    echo(f"The token, which is shown this once:\n\n{made}\n")
    echo(f"Its line in the file of `serve --config`:\n\ntokens:\n{line}")
