"""Which game, against whom: defaults, the server's environment variables, and what they may be."""

from __future__ import annotations

import difflib
import importlib
import os
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, Self, get_args, get_type_hints

import msgspec
import pyspiel

from openenv_async.environment import Isolation
from openenv_async.errors import InvalidOption
from openspiel_env.games import LoadedGame, load_game
from openspiel_env.trial import tried

__all__ = [
    "GAME_ERRORS",
    "SELF",
    "SERVED_ONLY",
    "VARIABLES",
    "OpponentName",
    "OpponentPolicy",
    "Settings",
    "declared_isolation",
    "policy_name",
]

OpponentName = Literal["random", "first", "last", "middle", "mcts", "is_mcts", "cfr", "self"]
SELF: Final = "self"
"""The policy of players that the client plays."""
OpponentPolicy = Callable[[pyspiel.State, int, random.Random], int]
"""A function that chooses a player's move in a state, with the episode's generator."""

VARIABLES: Final[dict[str, str]] = {
    "OPENSPIEL_GAME": "game_name",
    "OPENSPIEL_GAME_PARAMS": "game_params",
    "OPENSPIEL_AGENT_PLAYER": "agent_player",
    "OPENSPIEL_OPPONENT_POLICY": "opponent_policy",
    "OPENSPIEL_OPPONENTS": "opponents",
    "OPENSPIEL_MCTS_SIMULATIONS": "mcts_simulations",
    "OPENSPIEL_CFR_ITERATIONS": "cfr_iterations",
    "OPENSPIEL_CFR_TABLE": "cfr_table",
    "OPENSPIEL_MAX_STEPS": "max_steps",
    "OPENSPIEL_TEXT": "text",
    "OPENSPIEL_GAMES": "games",
    "OPENSPIEL_MAX_SIMULATIONS": "max_simulations",
    "OPENSPIEL_MAX_MOVE_TIME": "max_move_time",
    "OPENSPIEL_MAX_TENSOR_SIZE": "max_tensor_size",
    "OPENSPIEL_MAX_ACTIONS": "max_actions",
    "OPENSPIEL_MAX_GAME_MEMORY": "max_game_memory",
}
"""Environment variable of every setting; upstream's names where it has them."""

SERVED_ONLY: Final = frozenset(
    {
        *("cfr_table", "games", "max_simulations", "max_move_time"),
        *("max_tensor_size", "max_actions", "max_game_memory"),
    }
)
"""Settings that no client changes."""

GAME_ERRORS: Final = (
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

_FILES: Final = re.compile("file|_root")
"""Parts of the names of games' parameters that open files."""

_LEAST: Final[dict[str, float]] = {
    "agent_player": 0,
    "mcts_simulations": 1,
    "cfr_iterations": 1,
    "max_steps": 0,
    "max_simulations": 1,
    "max_move_time": 0.001,
    "max_tensor_size": 0,
    "max_actions": 1,
    "max_game_memory": 0,
}
"""The least that a setting may be."""

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
            information); ``is_mcts`` (OpenSpiel's, for turn-based games that can draw what is
            hidden); ``cfr``: a table near an equilibrium, for small turn-based games; ``self``:
            the client, in turn; or, from the server's side only, a callable or its
            ``module:name``.
        opponents: a policy for each player that has its own, by the player's number.
        mcts_simulations: of one move of ``mcts`` or ``is_mcts``.
        cfr_iterations: of CFR+, for a table of ``cfr``.
        cfr_table: a file with the table of ``cfr``, in place of one that is made.
        max_steps: steps after which an episode is truncated; 0: never.
        text: observations have ``text`` and ``legal_moves``.
        games: names of the games that clients may choose; empty: all that are small enough.
        max_simulations: ``mcts_simulations`` and ``cfr_iterations`` that clients may ask for.
        max_move_time: seconds of a move; a search that is measured to take longer is refused.
        max_tensor_size: numbers in the tensor of a game that a client chooses.
        max_actions: different actions of such a game.
        max_game_memory: bytes that such a game may take to be loaded and begun.
    """

    game_name: str = "catch"
    game_params: dict[str, Any] = field(default_factory=dict)
    agent_player: int = 0
    opponent_policy: str | OpponentPolicy = "random"
    opponents: dict[str, Any] = field(default_factory=dict)
    mcts_simulations: int = 100
    cfr_iterations: int = 100
    cfr_table: str = ""
    max_steps: int = 0
    text: bool = False
    games: list[str] = field(default_factory=list)
    max_simulations: int = 1000
    max_move_time: float = 10.0
    max_tensor_size: int = 1 << 16
    max_actions: int = 100_000
    max_game_memory: int = 256 << 20

    def __post_init__(self) -> None:
        policy = _policy(self.opponent_policy, "opponent_policy")
        object.__setattr__(self, "opponent_policy", policy)
        own = {
            str(player): _policy(each, f"opponents[{player!r}]")
            for player, each in self.opponents.items()
        }
        object.__setattr__(self, "opponents", own)
        for name, least in _LEAST.items():
            if not getattr(self, name) >= least:
                raise InvalidOption(f"{name} must be at least {least}", option=name)
        if own.get(str(self.agent_player), SELF) != SELF:
            raise InvalidOption(
                f"opponents names a policy for player {self.agent_player}, whom the client plays:"
                " give agent_player another number, or leave that player out",
                option="opponents",
            )

    def changed(self, options: Mapping[str, Any]) -> Self:
        """A copy with those options that are not ``None``.

        Another game forgets the parameters, the players' own opponents and the table.

        Raises:
            InvalidOption: a value that cannot be.
        """
        changes = {name: value for name, value in options.items() if value is not None}
        if changes.get("game_name", self.game_name) != self.game_name:
            changes = {"game_params": {}, "opponents": {}, "cfr_table": ""} | changes
        return replace(self, **changes) if changes else self

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """The defaults as the environment variables change them; ``…_GAME_PARAMS`` is JSON.

        Raises:
            InvalidOption: a variable's value is none; the message names the variable.
        """
        hints = get_type_hints(cls) | {"opponent_policy": str, "opponents": dict[str, str]}
        changes: dict[str, Any] = {}
        for variable, name in VARIABLES.items():
            if text := environ.get(variable):
                try:
                    if name in ("game_params", "opponents"):
                        changes[name] = msgspec.json.decode(text, type=hints[name])
                    elif name == "games":
                        changes[name] = [each.strip() for each in text.split(",")]
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
        return policy_name(self.opponent_policy)

    def sought(self) -> tuple[Any, ...]:
        """Return what a game and its opponents are found by: the settings that may take time."""
        search = (self.mcts_simulations, self.cfr_iterations)
        return (self.game_name, self.game_params, self.opponent_policy, self.opponents, search)

    def played_by(self, players: int) -> list[str | OpponentPolicy]:
        """Return who plays each player; ``self`` is the client."""
        policies: list[str | OpponentPolicy] = [self.opponent_policy] * players
        policies[self.agent_player] = SELF
        for player, policy in self.opponents.items():
            policies[int(player)] = policy
        return policies

    def load(self, seed: int, *, chosen: bool = False) -> LoadedGame:
        """The game; one that draws its chance itself (``rng_seed``) draws it from ``seed``.

        Args:
            seed: of the episode.
            chosen: by a client, so that the limits hold.

        Raises:
            InvalidOption: there is no such game, parameter or player, or it is too large.
        """
        if self.game_name in _UNNUMBERED:
            raise InvalidOption(
                f"the moves of {self.game_name} have no numbers: take another game",
                option="game_name",
            )
        params = self._params()
        if params or "(" in self.game_name:
            trial = tried(self.game_name, params or "{}")
            if trial.failure:
                raise self.refused(trial.failure)
            if chosen:
                self._check_size(trial.size, trial.actions, trial.memory)
        try:
            loaded = load_game(self.game_name, params, seed)
        except GAME_ERRORS as exc:
            raise self.refused(exc) from None
        if chosen:
            self._check_size(loaded.size, loaded.actions)
        for option, player in (
            ("agent_player", str(self.agent_player)),
            *(("opponents", each) for each in self.opponents),
        ):
            if not (player.isdecimal() and int(player) < loaded.players):
                raise InvalidOption(
                    f"{self.game_name} has {loaded.players} players: {option} must be below,"
                    f" got {player}",
                    option=option,
                )
        return loaded

    def check_chosen(self, served: Self) -> None:
        """Refuse what a client may not choose on a server with other settings.

        Raises:
            InvalidOption: a game that reads a file or is not among ``games``, or more simulations
                than ``max_simulations`` and than the server's own.
        """
        own = (self.game_name, self.game_params) == (served.game_name, served.game_params)
        if not own and _FILES.search(f"{self.game_name} {self.game_params}"):
            raise InvalidOption(
                "a game that reads a file is for the server to choose, with --param",
                option="game_name",
            )
        name = self.game_name.partition("(")[0]
        if self.games and not own and name not in self.games:
            raise InvalidOption(
                f"this server plays {', '.join(self.games)}, not {name}: take one of them",
                option="game_name",
            )
        for option in ("mcts_simulations", "cfr_iterations"):
            most = max(self.max_simulations, getattr(served, option))
            if getattr(self, option) > most:
                raise InvalidOption(
                    f"{option} may be {most} at most on this server, got {getattr(self, option)}",
                    option=option,
                )

    def _params(self) -> str:
        """The parameters as JSON, always written alike; empty where there are none."""
        if not self.game_params:
            return ""
        try:
            return msgspec.json.encode(self.game_params, order="deterministic").decode()
        except TypeError as exc:
            raise self.refused(exc) from exc

    def _check_size(self, size: int, actions: int, memory: int = 0) -> None:
        for option, found, what in (
            ("max_tensor_size", size, "numbers in its tensor"),
            ("max_actions", actions, "actions"),
            ("max_game_memory", memory, "bytes of memory"),
        ):
            if found > getattr(self, option):
                raise InvalidOption(
                    f"{self.game_name} with {self.game_params} has {found:,} {what}, and this"
                    f" server takes {getattr(self, option):,} of a client's game ({option}): take"
                    " a smaller one",
                    option="game_params" if self.game_params else "game_name",
                )

    def refused(self, cause: Exception | str) -> InvalidOption:
        """Return the error that blames the game's name or parameters for what OpenSpiel raised."""
        reason = str(cause) or type(cause).__name__
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


def policy_name(policy: str | OpponentPolicy) -> str:
    """A policy in words."""
    return policy if isinstance(policy, str) else getattr(policy, "__name__", repr(policy))


def _policy(policy: Any, where: str) -> str | OpponentPolicy:
    """Return a policy whose name is known, or the function that a path names."""
    if callable(policy):
        return policy  # type: ignore[no-any-return]  # a function, of whatever it takes
    if isinstance(policy, str) and ":" in policy:
        return _imported(policy, where)
    known = get_args(OpponentName)
    if policy not in known:
        raise InvalidOption(
            f"there is no {where} {policy!r}: take one of {', '.join(known)}",
            option=where.partition("[")[0],
        )
    return str(policy)


def _imported(path: str, where: str) -> OpponentPolicy:
    module, _, name = path.partition(":")
    option = where.partition("[")[0]
    try:
        policy = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as exc:
        raise InvalidOption(f"{where} {path!r}: {exc}", option=option) from exc
    if not callable(policy):
        raise InvalidOption(f"{where} {path!r} is not callable", option=option)
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
