"""The options by which somebody else's agent plays: ``--agent``, its gateway and its budget."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from openenv_async.cli import output
from openenv_async.cli.options import ENGINE_KEY_VARIABLE
from openenv_async.endpoints.tokens import find_token

if TYPE_CHECKING:
    from openenv_async.gateway.agents import CommandAgent

__all__ = ["GATEWAY_TOKEN_VARIABLE", "AgentSetup", "agent_options", "read_agent", "read_token"]

Command = TypeVar("Command", bound=Callable[..., Any])

GATEWAY_TOKEN_VARIABLE: Final = "OPENENV_GATEWAY_TOKEN"
_BUDGET: Final = {"calls": int, "tokens": int, "cost": float, "seconds": float}
_OPTIONS: Final = (
    click.option(
        "--agent",
        metavar="COMMAND",
        help="Program that plays whole episodes by itself, in place of a policy; {prompt} and"
        " {workdir} in it are replaced.",
    ),
    click.option(
        "--engine",
        "engines",
        multiple=True,
        metavar="URL",
        help="Base URL of the inference server that an agent's model is sampled at. Repeatable.",
    ),
    click.option(
        "--engine-model", metavar="NAME", help="Its model.  [default: the only one that it lists]"
    ),
    click.option(
        "--engine-key-file",
        type=click.Path(exists=True, dir_okay=False),
        help=f"File with its key; without it ${ENGINE_KEY_VARIABLE} is taken.",
    ),
    click.option(
        "--level",
        type=click.Choice(["tokens", "logprobs", "text"]),
        help="Level of knowledge that each of its answers must have.  [default: tokens]",
    ),
    click.option(
        "--journal",
        type=click.Path(file_okay=False),
        metavar="DIR",
        help="Folder that keeps an agent's calls.  [default: none, in memory]",
    ),
    click.option("--gateway", metavar="URL", help="A gateway that runs, in place of --engine."),
    click.option(
        "--gateway-token-file",
        type=click.Path(exists=True, dir_okay=False),
        help=f"File with its admin token; without it ${GATEWAY_TOKEN_VARIABLE} is taken.",
    ),
    click.option(
        "--budget",
        metavar="NAME=NUMBER,…",
        help="The most that an agent may spend in an episode: calls, tokens, cost, seconds.",
    ),
    click.option(
        "--agent-place",
        type=click.Choice(["host", "sandbox", "container"]),
        help="Place of an agent: a sandbox has no network but its session; a container is that of"
        " its environment.  [default: host]",
    ),
    click.option(
        "--agent-prompt",
        metavar="FILE|TEXT",
        help="Prompt of an agent; {observation} in it is replaced.",
    ),
    click.option(
        "--agent-env",
        multiple=True,
        metavar="NAME[=VALUE]",
        help="Variable that an agent is given, this process's own without a value. Repeatable.",
    ),
    click.option(
        "--agent-output", type=click.Path(file_okay=False), help="Folder for what agents write."
    ),
    click.option(
        "--submit",
        metavar="JSON",
        help="Action that finishes an episode which an agent left open.",
    ),
)
_NAMES: Final = (
    "engines",
    "engine_model",
    "engine_key_file",
    "level",
    "journal",
    "gateway",
    "gateway_token_file",
    "budget",
    "agent_place",
    "agent_prompt",
    "agent_env",
    "agent_output",
    "submit",
)


def agent_options(command: Command) -> Command:
    """Add ``--agent`` and what belongs to it; ``read_agent`` takes them."""
    return functools.reduce(lambda made, option: option(made), reversed(_OPTIONS), command)


@dataclass
class AgentSetup:
    """An agent that is to play, before its gateway runs.

    Attributes:
        gateway: makes it, an asynchronous context manager; ``None``: the agent has none.
        agent: makes the agent of a gateway.
    """

    gateway: Callable[[], Any] | None
    agent: Callable[..., CommandAgent]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[CommandAgent]:
        """Have the gateway run, and give its agent.

        Raises:
            AgentFailed: the agent's program is not there.
        """
        self.agent(None, budget=None).check_program()
        if self.gateway is None:
            output.echo("the agent is given no model: --engine or --gateway names one", err=True)
            yield self.agent(None)
            return
        async with self.gateway() as gateway:
            yield self.agent(gateway)


def read_agent(options: dict[str, Any]) -> AgentSetup | None:
    """Take the options of an agent out of those of a command, and return what they say.

    Raises:
        click.BadParameter: they do not fit together, or one makes no sense.
    """
    command = options.pop("agent")
    given = {name: options.pop(name) for name in _NAMES}
    if command is None:
        for name, value in given.items():
            if value:
                raise click.BadParameter("it belongs to an --agent", param_hint=_option(name))
        return None
    if options["policy"] != "random":
        raise click.BadParameter("an agent plays in place of a policy", param_hint="--agent")
    if given["engines"] and given["gateway"]:
        raise click.BadParameter("a gateway has its own engines", param_hint="--gateway")
    for name in ("engine_model", "engine_key_file", "level", "journal"):
        if given[name] and not given["engines"]:
            raise click.BadParameter("it belongs to an --engine", param_hint=_option(name))
    if given["gateway_token_file"] and not given["gateway"]:
        raise click.BadParameter("it belongs to a --gateway", param_hint="--gateway-token-file")
    gateway = _gateway(given)
    if given["budget"] is not None and gateway is None:
        raise click.BadParameter(
            "a gateway keeps it: give --engine or --gateway", param_hint="--budget"
        )
    if given["engines"] and "cost=" in (given["budget"] or ""):
        raise click.BadParameter(
            "cost needs prices: give a --gateway that has them", param_hint="--budget"
        )
    made = _agent(command, given)
    made(None, budget=None)  # its errors are raised now
    budget = _budget(given["budget"])
    return AgentSetup(gateway, functools.partial(made, budget=budget))


def _option(name: str) -> str:
    return "--engine" if name == "engines" else f"--{name.replace('_', '-')}"


def _gateway(given: dict[str, Any]) -> Callable[[], Any] | None:
    from openenv_async.errors import InvalidOption

    if given["gateway"]:
        from openenv_async.gateway.remote import RemoteGateway

        token = read_token(
            given["gateway_token_file"], GATEWAY_TOKEN_VARIABLE, "--gateway-token-file"
        )
        try:
            RemoteGateway(given["gateway"], token)
        except InvalidOption as exc:
            raise click.BadParameter(exc.message, param_hint="--gateway") from exc
        return lambda: RemoteGateway(given["gateway"], token)
    if not given["engines"]:
        return None
    from openenv_async.gateway.gateway import Gateway

    settings: dict[str, Any] = {
        "model": given["engine_model"],
        "api_key": read_token(given["engine_key_file"], ENGINE_KEY_VARIABLE, "--engine-key-file"),
        "level": given["level"] or "tokens",
        "journal": given["journal"],
    }
    try:
        Gateway(list(given["engines"]), **{**settings, "journal": None})
    except InvalidOption as exc:
        raise click.BadParameter(exc.message, param_hint="--engine") from exc
    return lambda: Gateway(list(given["engines"]), **settings)


def read_token(path: str | None, variable: str, option: str) -> str | None:
    """Return the token of a file, or of a variable; ``None`` without either.

    Raises:
        click.BadParameter: the file has none; names the option.
    """
    try:
        return find_token(path, os.environ, variable)
    except (OSError, ValueError) as exc:
        raise click.BadParameter(str(exc), param_hint=option) from None


def _budget(text: str | None) -> Any:
    """Return the budget that ``calls=20,seconds=600`` says."""
    if text is None:
        return None
    from openenv_async.gateway.sessions import Budget

    values: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, number = part.partition("=")
        if name not in _BUDGET or not equals:
            raise click.BadParameter(
                f"{part!r} is not NAME=NUMBER with a name of {', '.join(_BUDGET)}",
                param_hint="--budget",
            )
        try:
            values[name] = _BUDGET[name](number)
        except ValueError:
            raise click.BadParameter(f"{number!r} is not a number", param_hint="--budget") from None
    try:
        return Budget(**values)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--budget") from None


def _agent(command: str, given: dict[str, Any]) -> Callable[..., CommandAgent]:
    from openenv_async.errors import InvalidOption
    from openenv_async.gateway.agents import CommandAgent

    options: dict[str, Any] = {"output": given["agent_output"]}
    options["place"] = given["agent_place"] or "host"
    if given["agent_prompt"] is not None:
        told = given["agent_prompt"]
        is_file = os.path.isfile(told)  # of a text that is too long for a path it is false
        try:
            options["prompt"] = Path(told).read_text("utf-8") if is_file else told
        except (OSError, ValueError) as exc:
            raise click.BadParameter(str(exc), param_hint="--agent-prompt") from exc
    named = [each.partition("=") for each in given["agent_env"]]
    options["environ"] = {name: value for name, equals, value in named if equals}
    options["inherit"] = [name for name, equals, _ in named if not equals]
    if given["submit"] is not None:
        try:
            options["submit"] = json.loads(given["submit"])
        except ValueError as exc:
            raise click.BadParameter(f"it is not JSON: {exc}", param_hint="--submit") from exc

    def made(gateway: Any, *, budget: Any) -> CommandAgent:
        try:
            return CommandAgent(shlex.split(command), gateway=gateway, budget=budget, **options)
        except (InvalidOption, ValueError) as exc:
            raise click.BadParameter(str(exc), param_hint="--agent") from exc

    return made
