"""The environment: one game per session."""

from __future__ import annotations

import math
import random
import re
from typing import Any, ClassVar, Final

import numpy as np
import pyspiel
from numpy.typing import NDArray

from openenv_async import Environment, StepResult
from openenv_async.environment import Isolation
from openenv_async.errors import InvalidAction, InvalidOption
from openenv_async.models import json_schema
from openspiel_env.models import (
    RANDOM_ACTION,
    OpenSpielAction,
    OpenSpielObservation,
    OpenSpielState,
)
from openspiel_env.opponents import choose_opponent
from openspiel_env.settings import OpponentName, OpponentPolicy, Settings, declared_isolation
from openspiel_env.snapshots import Snapshot
from openspiel_env.table import TERMINAL, Table
from openspiel_env.views import View

__all__ = ["OpenSpielEnvironment"]

_FILES: Final = re.compile("file|_root")
"""Parts of the names of games' parameters that open files."""


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

    def __init__(
        self,
        game_name: str | None = None,
        game_params: dict[str, Any] | None = None,
        agent_player: int | None = None,
        opponent_policy: str | OpponentPolicy | None = None,
        mcts_simulations: int | None = None,
        max_steps: int | None = None,
        text: bool | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in Settings.names()}
        self._served = Settings.from_environ().changed(given)
        self._begin(self._served, 0)

    def reset(
        self,
        seed: int | None = None,
        *,
        game_name: str | None = None,
        game_params: dict[str, Any] | None = None,
        agent_player: int | None = None,
        opponent_policy: OpponentName | None = None,
        mcts_simulations: int | None = None,
        max_steps: int | None = None,
        text: bool | None = None,
    ) -> StepResult[OpenSpielObservation]:
        """Begin a game; the options change the server's settings for this episode."""
        given = {name: value for name, value in locals().items() if name in Settings.names()}
        if _FILES.search(f"{game_name} {game_params}"):
            raise InvalidOption(
                "a game that reads a file is for the server to choose, with --param",
                option="game_name",
            )
        self._begin(self._served.changed(given), seed or 0)
        with self._settings.refusing():
            self._table.start()
        self._opponents_move()
        return StepResult(self._observation("initial"), terminated=self._table.over)

    def _begin(self, settings: Settings, seed: int) -> None:
        self._settings = settings
        self._seed = seed
        self._random = random.Random(seed)
        self._game = settings.load(seed)
        with settings.refusing():
            self._table = Table(self._game, self._random)
            self._view = View(self._game, settings.text)
        self._opponent = choose_opponent(settings)
        kind = self._game.get_type()
        self._open = kind.information == pyspiel.GameType.Information.PERFECT_INFORMATION
        self._steps = 0
        self._mover = settings.agent_player
        self._last_moves: dict[int, int] = {}
        self._order: list[int] = []
        self._returns = [0.0] * self._game.num_players()
        self._legal: list[int] = []

    def legal_actions(self) -> list[OpenSpielAction]:
        """The moves of the player who has to move; chance is never one."""
        return [OpenSpielAction(action) for action in self._legal]

    def step(self, action: OpenSpielAction) -> StepResult[OpenSpielObservation]:
        table = self._table
        legal = table.legal_actions()
        chosen = action.action_id
        if chosen == RANDOM_ACTION:
            chosen = self._random.choice(legal)
        elif chosen not in legal:
            message = _refusal(chosen, legal, table.player, self._settings.game_name)
            raise InvalidAction(message, **self._forfeit())
        self._mover = table.player
        self._play(chosen)
        self._opponents_move()
        self._steps += 1
        over = table.over
        observation = self._observation("playing")
        whose = self._mover if self._opponent is None else self._settings.agent_player
        limit = self._settings.max_steps
        return StepResult(
            observation,
            observation.rewards[whose],
            over,
            bool(limit) and self._steps >= limit and not over,
        )

    def _forfeit(self) -> dict[str, Any]:
        """The reward by which a game that ends here is the worst there is for its player."""
        penalty = self._game.min_utility() - self._returns[self._table.player]
        return {"reward": penalty} if math.isfinite(penalty) else {}

    def _play(self, action: int) -> None:
        player = self._table.player
        if player in self._last_moves:
            self._order.remove(player)
        self._last_moves[player] = action
        self._order.append(player)
        self._table.move(action)

    def _opponents_move(self) -> None:
        table, opponent = self._table, self._opponent
        if opponent is None:
            return
        while not table.over and table.player != self._settings.agent_player:
            action = opponent(table.state, table.player, self._random)
            if action not in table.legal_actions():
                raise ValueError(f"the opponent's policy chose {action}, which is not legal")
            self._play(action)

    def _observation(self, phase: Any) -> OpenSpielObservation:
        table = self._table
        player = table.player
        if table.over:
            phase = "terminal"
            player = self._mover if self._opponent is None else self._settings.agent_player
        before, self._returns = self._returns, [float(each) for each in table.state.returns()]
        legal = self._legal = table.legal_actions()
        return OpenSpielObservation(
            info_state=self._tensor(player),
            legal_actions=legal,
            legal_actions_mask=self._view.mask(legal),
            game_phase=phase,
            current_player_id=TERMINAL if table.over else player,
            opponent_last_action=self._seen_by(player),
            rewards=[now - then for now, then in zip(self._returns, before, strict=True)],
            text=self._view.text(table.state, player),
        )

    def _tensor(self, player: int) -> NDArray[np.float32]:
        return self._view.tensor(self._table.state, player)

    def _seen_by(self, player: int) -> int | None:
        """The latest move of another player, where everybody sees everything."""
        if not self._open or self._table.pending:
            return None
        others = [each for each in self._order if each != player]
        return self._last_moves[others[-1]] if others else None

    def state(self) -> OpenSpielState:
        game = self._game
        return OpenSpielState(
            game_name=game.get_type().short_name,
            game_params={key: _plain(value) for key, value in game.get_parameters().items()},
            agent_player=None if self._opponent is None else self._settings.agent_player,
            opponent_policy=self._settings.opponent_name,
            num_players=game.num_players(),
            num_distinct_actions=game.num_distinct_actions(),
            info_state_shape=self._view.shape,
            returns=self._returns,
            moves=len(self._table.log),
        )

    def snapshot(self) -> bytes:
        """Return the episode's position and random generator: 2 KB and the moves so far."""
        settings = self._settings
        return Snapshot(
            settings={
                name: getattr(settings, name)
                for name in Settings.names()
                if name != "opponent_policy"
            },
            opponent=settings.opponent_name,
            seed=self._seed,
            log=self._table.log,
            pending=self._table.pending,
            random=self._random.getstate()[1],
            steps=self._steps,
            mover=self._mover,
            last_moves=[(player, self._last_moves[player]) for player in self._order],
            returns=self._returns,
        ).encode()

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot, of this or of another session.

        An opponent that is a callable has to be the one that this server serves.

        Raises:
            InvalidOption: it is not a snapshot of this environment.
        """
        saved = Snapshot.decode(snapshot)
        try:
            if saved.opponent == self._served.opponent_name:
                opponent = self._served.opponent_policy
            else:
                opponent = saved.opponent.replace(":", " ")  # a name; never imports
            self._begin(Settings(**saved.settings, opponent_policy=opponent), saved.seed)
            self._table.replay(saved.log, saved.pending)
            self._random.setstate((3, saved.random, None))
        except (pyspiel.SpielError, TypeError, ValueError) as exc:
            raise InvalidOption(f"this snapshot of openspiel cannot be restored: {exc}") from exc
        self._steps, self._mover, self._returns = saved.steps, saved.mover, saved.returns
        self._last_moves = dict(saved.last_moves)
        self._order = [player for player, _ in saved.last_moves]
        self._legal = self._table.legal_actions()

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        """The schemas for the game that is served: its actions and the size of its tensor."""
        settings = Settings.from_environ().changed(params)
        game = settings.load(0)
        action, observation = json_schema(OpenSpielAction), json_schema(OpenSpielObservation)
        count = game.num_distinct_actions()
        of = _properties(action)
        of["action_id"] |= {
            "maximum": count - 1,
            "description": "one of the observation's legal_actions; -1: any of them, at random",
            # not every number is legal at every moment, but this one is
            "x-sample": {"const": RANDOM_ACTION},
        }
        of = _properties(observation)
        of["info_state"]["x-ndarray"]["shape"] = [int(np.prod(View(game, False).shape))]
        of["legal_actions_mask"]["x-ndarray"] |= {"shape": [count], "low": 0, "high": 1}
        return {"action": action, "observation": observation}


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    """The properties of the object that a schema of a model describes."""
    if "$ref" in schema:
        schema = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    properties: dict[str, Any] = schema["properties"]
    return properties


def _refusal(action: int, legal: list[int], player: int, game: str) -> str:
    shown = ", ".join(map(str, legal[:20])) + (", …" if len(legal) > 20 else "")
    return f"action_id {action} is not legal for player {player} of {game} now: take one of {shown}"


def _plain(value: Any) -> Any:
    """A game's parameter as it can be sent: nested games by name."""
    return value if isinstance(value, str | int | float | bool | None) else str(value)
