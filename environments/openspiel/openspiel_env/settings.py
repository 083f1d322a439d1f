"""Which game, against whom: defaults, the server's environment variables, and what they may be."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, Self, get_args, get_type_hints

import msgspec
import pyspiel

from openenv_async.environment import Isolation
from openenv_async.errors import InvalidOption
from openspiel_env import trial

__all__ = ["VARIABLES", "OpponentName", "OpponentPolicy", "Settings", "declared_isolation"]

OpponentName = Literal["random", "first", "last", "middle", "mcts", "self"]
OpponentPolicy = Callable[[pyspiel.State, int, random.Random], int]
"""A function that chooses a player's move in a state, with the episode's generator."""

VARIABLES: Final[dict[str, str]] = {
    "OPENSPIEL_GAME": "game_name",
    "OPENSPIEL_GAME_PARAMS": "game_params",
    "OPENSPIEL_AGENT_PLAYER": "agent_player",
    "OPENSPIEL_OPPONENT_POLICY": "opponent_policy",
    "OPENSPIEL_MCTS_SIMULATIONS": "mcts_simulations",
    "OPENSPIEL_MAX_STEPS": "max_steps",
    "OPENSPIEL_TEXT": "text",
}
"""Environment variable of every setting; upstream's names where it has them."""

_GAME_ERRORS: Final = (
    pyspiel.SpielError,
    RuntimeError,
    TypeError,
    # As pybind11 gives std::out_of_range, std::length_error, std::bad_alloc and others.
    IndexError,
    ValueError,
    MemoryError,
    OverflowError,
)
"""Errors that OpenSpiel raises for parameters that it does not check."""

_UNNUMBERED: Final = frozenset({"crossword"})
"""Games whose moves are structures and have no numbers."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Which game, against whom.

    Attributes:
        game_name: of a game of OpenSpiel; ``goofspiel(num_cards=4)`` is understood too.
        game_params: its parameters.
        agent_player: who the client plays, from 0.
        opponent_policy: who plays the others: ``random``; ``first``, ``last`` or ``middle`` of
            the legal moves; ``mcts`` (OpenSpiel's, for turn-based games of perfect
            information); ``self``: the client, in turn; or, from the server's side only, a
            callable or its ``module:name``.
        mcts_simulations: of one move of ``mcts``.
        max_steps: steps after which an episode is truncated; 0: never.
        text: observations have ``text``.
    """

    game_name: str = "catch"
    game_params: dict[str, Any] = field(default_factory=dict)
    agent_player: int = 0
    opponent_policy: str | OpponentPolicy = "random"
    mcts_simulations: int = 100
    max_steps: int = 0
    text: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.opponent_policy, str) and ":" in self.opponent_policy:
            object.__setattr__(self, "opponent_policy", _load(self.opponent_policy))
        known = get_args(OpponentName)
        if not callable(self.opponent_policy) and self.opponent_policy not in known:
            raise InvalidOption(
                f"there is no opponent_policy {self.opponent_policy!r}: take one of"
                f" {', '.join(known)}",
                option="opponent_policy",
            )
        for name, least in (("agent_player", 0), ("mcts_simulations", 1), ("max_steps", 0)):
            if getattr(self, name) < least:
                raise InvalidOption(f"{name} must be at least {least}", option=name)

    def changed(self, options: Mapping[str, Any]) -> Self:
        """A copy with those options that are not ``None``; another game forgets the parameters.

        Raises:
            InvalidOption: a value that cannot be.
        """
        changes = {name: value for name, value in options.items() if value is not None}
        if changes.get("game_name", self.game_name) != self.game_name:
            changes = {"game_params": {}} | changes
        return replace(self, **changes) if changes else self

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """The defaults as the environment variables change them; ``…_GAME_PARAMS`` is JSON.

        Raises:
            InvalidOption: a variable's value is none; the message names the variable.
        """
        hints = get_type_hints(cls) | {"opponent_policy": str}
        changes: dict[str, Any] = {}
        for variable, name in VARIABLES.items():
            if text := environ.get(variable):
                try:
                    if name == "game_params":
                        changes[name] = msgspec.json.decode(text, type=dict[str, Any])
                    else:
                        changes[name] = msgspec.convert(text, hints[name], strict=False)
                except msgspec.DecodeError as exc:
                    raise InvalidOption(f"{variable}={text}: {exc}", option=name) from None
        return cls(**changes)

    @classmethod
    def names(cls) -> list[str]:
        return [item.name for item in fields(cls)]

    @property
    def opponent_name(self) -> str:
        """The opponent in words."""
        policy = self.opponent_policy
        return policy if isinstance(policy, str) else getattr(policy, "__name__", repr(policy))

    def load(self, seed: int) -> pyspiel.Game:
        """The game; one that draws its chance itself (``rng_seed``) draws it from ``seed``.

        Raises:
            InvalidOption: there is no such game, parameter or player.
        """
        self._try_out()
        with self.refusing():
            if "(" in self.game_name:
                game = pyspiel.load_game(self.game_name)
            else:
                game = pyspiel.load_game(self.game_name, self.game_params)
            parameters = game.get_parameters()
            if "rng_seed" in parameters and "rng_seed" not in self.game_params:
                game = pyspiel.load_game(
                    game.get_type().short_name, parameters | {"rng_seed": seed % (1 << 31)}
                )
        if self.agent_player >= game.num_players():
            raise InvalidOption(
                f"{self.game_name} has {game.num_players()} players: agent_player must be below",
                option="agent_player",
            )
        kind = game.get_type()
        if kind.short_name in _UNNUMBERED:
            raise InvalidOption(
                f"the moves of {kind.short_name} have no numbers: take another game",
                option="game_name",
            )
        perfect = kind.information == pyspiel.GameType.Information.PERFECT_INFORMATION
        sequential = kind.dynamics == pyspiel.GameType.Dynamics.SEQUENTIAL
        if self.opponent_policy == "mcts" and not (perfect and sequential):
            raise InvalidOption(
                f"opponent_policy mcts plays turn-based games of perfect information, which"
                f" {kind.short_name} is not: take another",
                option="opponent_policy",
            )
        return game

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Return what OpenSpiel raises in the block is the fault of the game's name or parameters.

        Raises:
            InvalidOption: it raised.
        """
        try:
            yield
        except _GAME_ERRORS as exc:
            raise self._refused(str(exc) or type(exc).__name__) from None

    def _try_out(self) -> None:
        if not (self.game_params or "(" in self.game_name):
            return
        try:
            params = msgspec.json.encode(self.game_params, order="sorted").decode()
        except TypeError:
            return  # nor will it be loaded
        if reason := trial.failure(self.game_name, params):
            raise self._refused(reason)

    def _refused(self, reason: str) -> InvalidOption:
        name = self.game_name.partition("(")[0]
        option = "game_params" if name in pyspiel.registered_names() else "game_name"
        return InvalidOption(self._why_not(name, " ".join(reason.split())[:300]), option=option)

    def _why_not(self, name: str, reason: str) -> str:
        known: list[str] = pyspiel.registered_names()
        if name in known:
            kind = next(each for each in pyspiel.registered_games() if each.short_name == name)
            takes = ", ".join(f"{k}={v!r}" for k, v in kind.parameter_specification.items())
            return (
                f"{self.game_name} cannot be played with {self.game_params}: {reason};"
                f" it takes {takes or 'no parameters'}"
            )
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "pyspiel.registered_names() has all"
        return f"OpenSpiel has no game {name!r}; {hint}"


def _load(path: str) -> OpponentPolicy:
    module, _, name = path.partition(":")
    try:
        policy = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as exc:
        raise InvalidOption(f"opponent_policy {path!r}: {exc}", option="opponent_policy") from exc
    if not callable(policy):
        raise InvalidOption(f"opponent_policy {path!r} is not callable", option="opponent_policy")
    return policy  # type: ignore[no-any-return]  # callable, as was checked


def declared_isolation(environ: Mapping[str, str] = os.environ) -> Isolation:
    """``OPENSPIEL_ISOLATION``: inline (the default), thread or process.

    Raises:
        InvalidOption: it is something else.
    """
    text = environ.get("OPENSPIEL_ISOLATION") or "inline"
    try:
        isolation: Isolation = msgspec.convert(text, Isolation)
    except msgspec.ValidationError as exc:
        raise InvalidOption(f"OPENSPIEL_ISOLATION={text}: {exc}") from None
    return isolation
