"""``openenv-async info``: what an environment takes and gives."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

import click

from openenv_async.cli.options import (
    examples,
    param_option,
    token_option,
)
from openenv_async.cli.output import console, echo
from openenv_async.cli.targets import resolved, target_argument
from openenv_async.schemas.legal import LEGAL_KEY

if TYPE_CHECKING:
    from openenv_async.spec import EnvironmentSpec
    from openenv_async.targets.resolve import ResolvedTarget

__all__ = ["field_rows", "info"]


@click.command(
    epilog=examples(
        "info echo",
        "info gymnasium --param id=Blackjack-v1",
        "info ./my_env --json",
        "info http://127.0.0.1:8000",
    )
)
@target_argument()
@token_option
@param_option
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, schemas included.")
def info(target: str | list[str], token: str | None, params: dict[str, Any], as_json: bool) -> None:
    """Show what TARGET takes and gives: its arguments, options, tasks, actions and observations.

    TARGET is an installed name, module:Class, a folder with an openenv.yaml, an id of Gymnasium,
    or the URL of a server; an image is started for it. Of several URLs the first is shown.

    Exit codes: 0 shown; 1 the server does not answer; 2 a wrong value.
    """
    found = resolved(target, params, token, "info")
    if found.kind == "named" and not found.is_application:
        about = _of_environment(found)
    else:
        from openenv_async.cli.playing import run

        about = run(_of_server(found))
    if as_json:
        echo(json.dumps(about, indent=2, default=str))
        return
    _print(about)


async def _of_server(target: ResolvedTarget) -> dict[str, Any]:
    from openenv_async.checks.conformance.suite import describe
    from openenv_async.checks.servers import servers
    from openenv_async.client.settings import ClientSettings
    from openenv_async.client.websocket import dial

    async with servers(target) as found:
        url, token = found[0].url, found[0].token
        name, schema = await describe(url, token)
        connection = await dial(url, ClientSettings(token=token))
        try:
            server = dict(connection.server)
            transport = connection.transport
        finally:
            await connection.aclose()
        tasks = await _served_tasks(url, token)
    return {
        "name": name,
        "version": server.get("environment_version"),
        "url": url,
        "server": server.get("server"),
        "transport": transport,
        "isolation": server.get("isolation"),
        "vector": _vector(server.get("vector")),
        "max_sessions": server.get("max_sessions"),
        "tasks": tasks,
        "schema": schema or {},
    }


def _vector(told: Any) -> str | None:
    """Return what a session is, where it is a vector of environments."""
    if not isinstance(told, dict):
        return None
    some = told.get("batch_size") != told.get("num_envs")
    first = f", the first {told.get('batch_size')} a step" if some else ""
    return f"{told.get('num_envs')} environments a session{first}, {told.get('autoreset_mode')}"


async def _served_tasks(url: str, token: str | None) -> dict[str, Any] | None:
    """Return how many tasks each split has, or why that cannot be told; ``None`` without any."""
    from openenv_async.client.env import GenericEnvClient
    from openenv_async.errors import OpenEnvError, OperationUnsupported

    client = GenericEnvClient(url, token=token)
    try:
        tasks = await client.tasks()
        return {split: await tasks.count(split) for split in await tasks.splits()}
    except OperationUnsupported:
        return None
    except OpenEnvError as exc:
        return {"error": exc.message}
    finally:
        await client.close()


def _own_tasks(spec: EnvironmentSpec) -> dict[str, Any] | None:
    """Return the same of an environment that is not served."""
    from openenv_async.errors import OpenEnvError

    if spec.tasks is None:
        return None
    try:
        return {split: spec.tasks.count(split) for split in spec.tasks.splits}
    except OpenEnvError as exc:
        return {"error": exc.message}


def _of_environment(target: ResolvedTarget) -> dict[str, Any]:
    from openenv_async.errors import TargetNotFound
    from openenv_async.targets.discovery import find_entry

    try:
        spec = target.spec("info")
    except (TypeError, TargetNotFound) as exc:
        raise click.BadParameter(str(exc), param_hint="TARGET") from exc
    about: dict[str, Any] = {
        "name": spec.name,
        "version": spec.version,
        "description": spec.description,
        "environment": f"{spec.cls.__module__}:{spec.cls.__qualname__}",
    }
    try:
        entry = find_entry(target.given)
        about |= {"client": entry.client, "action": entry.action, "image": entry.image}
    except TargetNotFound:
        pass
    return about | {
        "isolation": spec.contract.isolation,
        "vector": _vector(None if spec.vector is None else spec.vector.told()),
        "streams": spec.contract.streams,
        "arguments": _arguments(spec.cls),
        "session_options": sorted(getattr(spec.cls, "session_options", ())),
        "tasks": _own_tasks(spec),
        "schema": spec.schema,
    }


def _arguments(cls: Any) -> list[str]:
    """Return constructor arguments as they are written."""
    if cls.__init__ is object.__init__:
        return []
    try:
        parameters = list(inspect.signature(cls).parameters.values())
    except (TypeError, ValueError):
        return []
    return [str(parameter).replace("'", "") for parameter in parameters]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {about}" for name, about in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)


def _print(about: dict[str, Any]) -> None:
    from rich.table import Table

    shown_on = console()
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for key, value in about.items():
        if key != "schema" and value not in (None, [], False):
            shown = _shown(value)
            facts.add_row(key.replace("_", " "), shown.partition("\n\n")[0])
    told = (about["schema"].get("action") or {}).get(LEGAL_KEY)
    if told:
        others = "others are refused" if told is True else "others may be taken"
        facts.add_row("legal actions", f"told with each result; {others}")
    shown_on.print(facts)
    for kind in ("reset", "action", "observation", "state"):
        rows = field_rows(about["schema"].get(kind))
        if rows:
            table = Table(kind, "type", "about", box=None, padding=(0, 2, 0, 0))
            for row in rows:
                table.add_row(*row)
            shown_on.print()
            shown_on.print(table)


def field_rows(schema: Any) -> list[tuple[str, str, str]]:
    """Return name, type and description of each field of a schema; one row where it has none."""
    from openenv_async.cli.forms import described, kind_of

    if not schema:
        return []
    found = described(schema, schema)
    properties = found.get("properties")
    if not properties:
        return [("(value)", kind_of(found, schema), "")]
    required = set(found.get("required", ()))
    rows = []
    for name, part in properties.items():
        field = described(part, schema)
        default = "" if name in required else f"= {json.dumps(field.get('default'))}"
        about = " ".join(f"{default} {field.get('description', '')}".split())
        rows.append((name, kind_of(part, schema), about))
    return rows
