"""The environment: one game per session."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from typing import Any, ClassVar, Final, Literal

import pyspiel

from openenv_async import Certification, Environment, StepResult
from openenv_async.environment import Isolation
from openenv_async.errors import InvalidAction, InvalidOption
from openenv_async.models import json_schema
from openspiel_env import words
from openspiel_env.chance import EpisodeRandom
from openspiel_env.games import LoadedGame
from openspiel_env.models import (
    RANDOM_ACTION,
    OpenSpielAction,
    OpenSpielObservation,
    OpenSpielState,
)
from openspiel_env.opponents import choose_opponents
from openspiel_env.settings import (
    GAME_ERRORS,
    SERVED_ONLY,
    OpponentName,
    OpponentPolicy,
    Settings,
    declared_isolation,
    policy_name,
)
from openspiel_env.snapshots import Snapshot
from openspiel_env.table import TERMINAL, Table

__all__ = ["OpenSpielEnvironment"]

_NEWS: Final = 64
"""Moves that are told in words, the latest."""
Phase = Literal["initial", "playing", "terminal"]
Found = tuple[Settings, LoadedGame, list[OpponentPolicy | None]]


class OpenSpielEnvironment(Environment[OpenSpielAction, OpenSpielObservation, OpenSpielState]):
    """A game of OpenSpiel.

    The reward is the game's own: what the agent's player got since its last move, or in
    self-play what the player got who moved. ``terminated``: the game is over; ``truncated``:
    ``max_steps``. A move that is not legal is refused; its penalty, for callers that end an
    episode there, makes the player's return the worst of the game.

    Args:
        settings: see ``Settings``; what is not given comes from the ``OPENSPIEL_*`` variables,
            else from its defaults.

    Raises:
        InvalidOption: there is no such game, player or opponent.
    """

    name = "openspiel"
    # OpenSpiel holds the GIL and most moves take microseconds. For ``mcts`` opponents and many
    # sessions: ``--workers N``.
    isolation: ClassVar[Isolation | None] = declared_isolation()
    _on_loop: ClassVar[bool] = False
    """A server of this process calls it on its loop."""

    def __init__(
        self,
        game_name: str | None = None,
        game_params: dict[str, Any] | None = None,
        agent_player: int | None = None,
        opponent_policy: str | OpponentPolicy | None = None,
        opponents: dict[str, Any] | None = None,
        mcts_simulations: int | None = None,
        cfr_iterations: int | None = None,
        cfr_table: str | None = None,
        max_steps: int | None = None,
        text: bool | None = None,
        games: list[str] | None = None,
        max_simulations: int | None = None,
        max_move_time: float | None = None,
        max_tensor_size: int | None = None,
        max_actions: int | None = None,
        max_game_memory: int | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in Settings.names()}
        self._served = Settings.from_environ().changed(given)
        self._random = EpisodeRandom()
        self._take(*self._found(self._served, 0))
        try:
            self._begin(0)
        except GAME_ERRORS as exc:
            raise self._settings.refused(exc) from None

    def reset(
        self,
        seed: int | None = None,
        *,
        game_name: str | None = None,
        game_params: dict[str, Any] | None = None,
        agent_player: int | None = None,
        opponent_policy: OpponentName | None = None,
        opponents: dict[str, OpponentName] | None = None,
        mcts_simulations: int | None = None,
        cfr_iterations: int | None = None,
        max_steps: int | None = None,
        text: bool | None = None,
    ) -> StepResult[OpenSpielObservation]:
        """Begin a game; the options change the server's settings for this episode.

        A client's choice of game or opponents is looked up in a thread where a server calls this
        on its loop, and what is returned then is to be awaited: solving a game takes seconds, and
        the other sessions go on.
        """
        given = {
            "game_name": game_name,
            "game_params": game_params,
            "agent_player": agent_player,
            "opponent_policy": opponent_policy,
            "opponents": opponents,
            "mcts_simulations": mcts_simulations,
            "cfr_iterations": cfr_iterations,
            "max_steps": max_steps,
            "text": text,
        }
        settings = self._served.changed(given)
        if settings is not self._served:
            settings.check_chosen(self._served)
        if self._loaded.draws or (settings is not self._settings and settings != self._settings):
            if self._must_not_wait(settings):
                return self._reset_later(settings, seed or 0)  # type: ignore[return-value]  # see above
            self._take(*self._found(settings, seed or 0))
        return self._first(seed)

    def _must_not_wait(self, settings: Settings) -> bool:
        """Return whether finding out takes time and this is the loop of a server."""
        chosen = settings.sought() != self._served.sought()
        return chosen and self._on_loop and asyncio._get_running_loop() is not None

    async def _reset_later(self, settings: Settings, seed: int) -> StepResult[OpenSpielObservation]:
        self._take(*await asyncio.to_thread(self._found, settings, seed))
        return self._first(seed)

    def _first(self, seed: int | None) -> StepResult[OpenSpielObservation]:
        try:
            self._begin(seed or 0)
            self._table.start()
        except GAME_ERRORS as exc:
            raise self._settings.refused(exc) from None
        self._opponents_move()
        return self._result("initial", None)

    def _found(self, settings: Settings, seed: int) -> Found:
        """Load a game, and find who plays it; nothing of the session changes."""
        served = self._served
        own = (settings.game_name, settings.game_params) == (served.game_name, served.game_params)
        loaded = settings.load(seed, chosen=not own)
        return settings, loaded, choose_opponents(settings, loaded)

    def _take(
        self, settings: Settings, loaded: LoadedGame, opponents: list[OpponentPolicy | None]
    ) -> None:
        """Play that game from now on."""
        self._settings, self._loaded, self._opponents = settings, loaded, opponents
        self._eyes = loaded.eyes()
        clients = [player for player, policy in enumerate(opponents) if policy is None]
        self._sole = clients[0] if len(clients) == 1 else None
        self._with_text = settings.text or not loaded.has_tensor

    def _begin(self, seed: int) -> None:
        """Set the pieces up."""
        self._seed = seed
        self._random.seed(seed)
        self._table = Table(self._loaded.game, self._random)
        self._steps = 0
        self._mover = self._settings.agent_player
        self._last_moves: dict[int, int] = {}
        self._news: deque[tuple[int, str]] = deque(maxlen=_NEWS)
        self._returns = [0.0] * self._loaded.players
        self._legal: list[int] = []

    def legal_actions(self) -> list[OpenSpielAction]:
        """The moves of the player who has to move; chance is never one."""
        return [OpenSpielAction(action) for action in self._legal]

    def takes(self, action_id: int) -> bool:
        """Return whether ``step`` takes that number now."""
        return action_id in self._legal or (action_id == RANDOM_ACTION and bool(self._legal))

    def step(self, action: OpenSpielAction) -> StepResult[OpenSpielObservation]:
        legal = self._legal
        chosen = action.action_id
        if chosen is None or action.move is not None:
            chosen = self._named(action)
        elif chosen not in legal:
            if chosen != RANDOM_ACTION or not legal:
                raise self._refusal(f"action_id {chosen} is not legal")
            chosen = self._random.choice(legal)
        self._mover = self._table.player
        self._play(chosen)
        self._opponents_move()
        self._steps += 1
        return self._result("playing", self._mover if self._sole is None else self._sole)

    def _named(self, action: OpenSpielAction) -> int:
        """The number of the move that an action names.

        Raises:
            InvalidAction: none, or both a number and another's name.
        """
        if action.move is None:
            raise self._refusal("an action without action_id and move is not legal")
        legal = self._legal
        try:
            found = words.find_move(action.move, legal, self._names(legal))
        except words.NotAMove as exc:
            raise self._refusal(f"move {action.move[:80]!r} {exc}") from None
        if action.action_id not in (None, found):
            raise self._refusal(
                f"action_id {action.action_id} and move {action.move[:80]!r} are two moves, which"
                " is not legal"
            )
        return found

    def _names(self, legal: list[int]) -> list[str]:
        table = self._table
        name, player = table.state.action_to_string, table.player
        return [name(player, action) for action in legal]

    def _refusal(self, what: str) -> InvalidAction:
        """Return the refusal of an action, with the reward that makes the return the worst."""
        legal, player = self._legal, self._table.player
        shown = words.shown_moves(legal, self._names(legal[:21]) if self._with_text else ())
        penalty = self._loaded.min_utility - self._returns[player] if legal else math.inf
        told: dict[str, Any] = {"reward": penalty} if math.isfinite(penalty) else {}
        return InvalidAction(
            f"{what} for player {player} of {self._settings.game_name} now: take one of {shown}",
            **told,
        )

    def _play(self, action: int) -> None:
        table, last = self._table, self._last_moves
        player = table.player
        if self._with_text and self._loaded.is_open:
            self._news.append((player, table.state.action_to_string(player, action)))
        last.pop(player, None)  # the latest comes last
        last[player] = action
        table.move(action)

    def _opponents_move(self) -> None:
        table, opponents = self._table, self._opponents
        while (player := table.player) != TERMINAL:
            opponent = opponents[player]
            if opponent is None:
                return
            self._play(opponent(table.state, player, self._random))

    def _result(self, phase: Phase, whose: int | None) -> StepResult[OpenSpielObservation]:
        """Return what the player sees who has to move, and what ``whose`` got."""
        table, loaded = self._table, self._loaded
        state, player = table.state, table.player
        over = player == TERMINAL
        if over:
            phase = "terminal"
            player = self._mover if self._sole is None else self._sole
            legal: list[int] = []
        else:
            legal = state.legal_actions(player)
        self._legal = legal
        mask, moves = loaded.told(legal)
        before, self._returns = self._returns, state.returns()
        if self._returns == before:
            rewards = [0.0] * loaded.players
        else:
            rewards = [now - then for now, then in zip(self._returns, before, strict=True)]
        observation = OpenSpielObservation(
            self._eyes.tensor(state, player),
            legal,
            mask,
            phase,
            TERMINAL if over else player,
            self._seen_by(player) if loaded.is_open else None,
            rewards,
            "",
        )
        if self._with_text:
            info = self._tell(observation, player, over)
        else:
            info = {} if over else {"legal_actions": moves}
        limit = self._settings.max_steps
        return StepResult(
            observation,
            None if whose is None else observation.rewards[whose],
            over,
            bool(limit) and self._steps >= limit and not over,
            info,
        )

    def _tell(self, observation: OpenSpielObservation, player: int, over: bool) -> dict[str, Any]:
        """Put the position into words; the info names the legal moves."""
        table, loaded = self._table, self._loaded
        news = [] if table.pending else self._told_to(player)
        if over:
            observation.text = words.ended(loaded, table.state, player, news)
            return {}
        legal = observation.legal_actions
        names = observation.legal_moves = self._names(legal)
        observation.text = words.described(
            loaded, table.state, player, legal, names, news, table.is_simultaneous
        )
        if not self._served.text:
            return {"legal_actions": loaded.told(legal)[1]}
        of_one = Counter(names)
        told = [
            {"move": name if of_one[name] == 1 else f"{number}: {name}"}
            for number, name in zip(legal, names, strict=True)
        ]
        return {"legal_actions": told}

    def _told_to(self, player: int) -> list[str]:
        """The moves of others since a player's last, in words."""
        told: list[str] = []
        for mover, name in reversed(self._news):
            if mover == player:
                break
            told.append(f"Player {mover} played {name}.")
        return told[::-1]

    def _seen_by(self, player: int) -> int | None:
        """The latest move of another player, where everybody sees everything."""
        if self._table.pending:
            return None
        for each, action in reversed(self._last_moves.items()):
            if each != player:
                return action
        return None

    def state(self) -> OpenSpielState:
        game, settings, loaded = self._loaded.game, self._settings, self._loaded
        names = [policy_name(policy) for policy in settings.played_by(loaded.players)]
        everyone = self._sole is None and set(names) == {"self"}
        return OpenSpielState(
            game_name=loaded.name,
            game_params={key: _plain(value) for key, value in game.get_parameters().items()},
            agent_player=None if everyone else settings.agent_player,
            opponent_policy=settings.opponent_name,
            num_players=loaded.players,
            num_distinct_actions=loaded.actions,
            info_state_shape=loaded.shape,
            returns=self._returns,
            moves=len(self._table.log),
            played_by=names,
        )

    def snapshot(self) -> bytes:
        """Return the episode's position and random generator: the moves so far, mostly."""
        settings = self._settings
        return Snapshot(
            settings={
                name: getattr(settings, name)
                for name in Settings.names()
                if name not in ("opponent_policy", "opponents", *SERVED_ONLY)
            },
            opponent=settings.opponent_name,
            opponents={player: policy_name(each) for player, each in settings.opponents.items()},
            seed=self._seed,
            log=self._table.log,
            pending=self._table.pending,
            random=self._random.position,
            steps=self._steps,
            mover=self._mover,
            last_moves=list(self._last_moves.items()),
            news=list(self._news),
            returns=self._returns,
        ).encode()

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot, of this or of another session.

        An opponent that is a callable has to be the one that this server serves.

        Raises:
            InvalidOption: it is not a snapshot of this environment.
        """
        saved, served = Snapshot.decode(snapshot), self._served
        try:
            policy = _opponent_again(saved.opponent, served.opponent_policy)
            opponents = {
                player: _opponent_again(name, served.opponents.get(player, name))
                for player, name in saved.opponents.items()
            }
            settings = served.changed(
                saved.settings | {"opponent_policy": policy, "opponents": opponents}
            )
            if settings.game_name == served.game_name:
                settings = settings.changed({"cfr_table": served.cfr_table})
            self._take(*self._found(settings, saved.seed))
            self._begin(saved.seed)
            self._table.replay(saved.log, saved.pending)
            self._random.setstate((saved.random, None))
        except (pyspiel.SpielError, IndexError, TypeError, ValueError) as exc:
            raise InvalidOption(f"this snapshot of openspiel cannot be restored: {exc}") from exc
        self._steps, self._mover, self._returns = saved.steps, saved.mover, saved.returns
        self._last_moves = dict(saved.last_moves)
        self._news.extend(saved.news)
        self._legal = self._table.legal_actions()

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        """The schemas for the game that is served: its actions and the size of its tensor."""
        settings = Settings.from_environ().changed(params)
        loaded = settings.load(0)
        action, observation = json_schema(OpenSpielAction), json_schema(OpenSpielObservation)
        of = _properties(action)
        if settings.text:
            del of["action_id"]
            of["move"] = {
                "type": "string",
                "description": "one of the observation's legal_moves, by its name or its number",
            }
        else:
            del of["move"]
            of["action_id"] = {
                "type": "integer",
                "minimum": RANDOM_ACTION,
                "maximum": loaded.actions - 1,
                "description": "one of the observation's legal_actions; -1: any of them, at random",
                # not every number is legal at every moment, but this one is
                "x-sample": {"const": RANDOM_ACTION},
            }
        _model(action)["required"] = list(of)
        of = _properties(observation)
        of["info_state"]["x-ndarray"]["shape"] = [loaded.size]
        of["legal_actions_mask"]["x-ndarray"] |= {"shape": [loaded.actions], "low": 0, "high": 1}
        return {"action": action, "observation": observation}

    @classmethod
    def certification_for(cls, **params: Any) -> Certification | None:
        """The statements about catch, which is served by default; none about other games."""
        if Settings.from_environ().changed(params).game_name != "catch":
            return None
        from openspiel_env.policies import CERTIFICATION

        return CERTIFICATION

    @classmethod
    def prepare_process(cls, sessions: int, **params: Any) -> None:
        """Load the game and make the tables of its opponents, so that no session waits for it."""
        cls(**params)
        OpenSpielEnvironment._on_loop = cls.isolation == "inline"


def _model(schema: dict[str, Any]) -> dict[str, Any]:
    """The object that a schema of a model describes."""
    if "$ref" in schema:
        found: dict[str, Any] = schema["$defs"][schema["$ref"].rpartition("/")[2]]
        return found
    return schema


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    """The properties of that object."""
    properties: dict[str, Any] = _model(schema)["properties"]
    return properties


def _opponent_again(name: str, served: str | OpponentPolicy) -> str | OpponentPolicy:
    """The opponent that a snapshot names: the server's own, or one of OpenSpiel; never imports."""
    return served if name == policy_name(served) else name.replace(":", " ")


def _plain(value: Any) -> Any:
    """A game's parameter as it can be sent: nested games by name."""
    return value if isinstance(value, str | int | float | bool | None) else str(value)
