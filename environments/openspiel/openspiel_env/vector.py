"""Many games as one session: one call moves in all of them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from openenv_async import StepResult, VectorEnvironment, VectorRows
from openenv_async.environment import Isolation
from openenv_async.errors import InvalidAction, InvalidOption
from openspiel_env.environment import OpenSpielEnvironment
from openspiel_env.models import OpenSpielAction, OpenSpielObservation
from openspiel_env.settings import Settings, declared_isolation

__all__ = ["OpenSpielVectorEnvironment"]

Batch = dict[str, NDArray[Any]]


class OpenSpielVectorEnvironment(VectorEnvironment[NDArray[np.int64], Batch, dict[str, Any]]):
    """Games of one kind, a row each, with the rules and rewards of ``OpenSpielEnvironment``.

    An action is the numbers of the moves, int64 [num_envs]; -1 is any legal one. An observation is
    a dict: ``info_state`` float32 [num_envs, size], ``legal_actions_mask`` uint8 [num_envs,
    actions] and ``current_player_id`` int64 [num_envs]. A row that has ended begins anew instead of
    its next move, whatever its action. Row i of seed s plays seeds s + i, s + i + num_envs, ….

    Args:
        num_envs: rows.
        settings: see ``Settings``.

    Raises:
        InvalidOption: there is no such game, player or opponent, or ``text`` was asked for.
    """

    name = "openspiel-vector"
    isolation: ClassVar[Isolation | None] = declared_isolation()

    def __init__(self, num_envs: int = 64, **settings: Any) -> None:
        self.num_envs = num_envs
        self._games = [OpenSpielEnvironment(**settings) for _ in range(num_envs)]
        if Settings.from_environ().changed(settings).text:
            raise InvalidOption("a vector has no text: serve openspiel for it", option="text")
        self._seeds = [0] * num_envs
        self._ended = np.zeros(num_envs, bool)

    @classmethod
    def row_schemas(cls, **params: Any) -> dict[str, Any]:
        """The schemas of one row, for the game that is served."""
        params.pop("num_envs", None)
        loaded = Settings.from_environ().changed(params).load(0)
        tensor = {"dtype": "<f4", "shape": [loaded.size]}
        mask = {"dtype": "|u1", "shape": [loaded.actions], "low": 0, "high": 1}
        properties = {
            "info_state": {"type": "array", "x-ndarray": tensor},
            "legal_actions_mask": {"type": "array", "x-ndarray": mask},
            "current_player_id": {"type": "integer"},
        }
        return {
            "action": {
                "type": "integer",
                "minimum": -1,
                "maximum": loaded.actions - 1,
                "x-sample": {"const": -1},
            },
            "observation": {
                "type": "object",
                "properties": properties,
                "required": list(properties),
            },
        }

    def reset(self, seed: int | None = None) -> VectorRows[Batch]:
        self._seeds = [(seed or 0) + row for row in range(self.num_envs)]
        self._ended = np.zeros(self.num_envs, bool)
        first = [game.reset(seed) for game, seed in zip(self._games, self._seeds, strict=True)]
        return VectorRows(self._batch([result.observation for result in first]))

    def step(self, actions: NDArray[np.int64]) -> VectorRows[Batch]:
        """Move in each row, or begin its next game."""
        chosen = self._checked(actions)
        given = ~self._ended
        results = [
            game.step(OpenSpielAction(action)) if goes_on else self._again(row)
            for row, (game, action, goes_on) in enumerate(
                zip(self._games, chosen, given.tolist(), strict=True)
            )
        ]
        terminated = np.array([result.terminated for result in results])
        truncated = np.array([result.truncated for result in results])
        self._ended = terminated | truncated
        return VectorRows(
            self._batch([result.observation for result in results]),
            np.array([result.reward or 0.0 for result in results]),
            terminated,
            truncated,
            given,
        )

    def state(self) -> dict[str, Any]:
        """The game that is played, and what each row's players have got."""
        first = self._games[0].state()
        return {
            "game_name": first.game_name,
            "game_params": first.game_params,
            "played_by": first.played_by,
            "returns": [game.state().returns for game in self._games],
        }

    def _again(self, row: int) -> StepResult[OpenSpielObservation]:
        self._seeds[row] += self.num_envs
        return self._games[row].reset(self._seeds[row])

    def _checked(self, actions: Any) -> list[int]:
        """Return the numbers of a batch of moves, all of which can be made.

        Raises:
            InvalidAction: it has another length, or a move of a row is not legal.
        """
        batch = np.asarray(actions)
        if batch.shape != (self.num_envs,) or batch.dtype.kind not in "iu":
            raise InvalidAction(
                f"a batch of moves is {self.num_envs} integers, got {batch.dtype} {batch.shape}"
            )
        chosen: list[int] = batch.tolist()
        for row, (game, action) in enumerate(zip(self._games, chosen, strict=True)):
            if not self._ended[row] and not game.takes(action):
                raise InvalidAction(
                    f"action_id {action} is not legal in row {row}: see its legal_actions_mask"
                )
        return chosen

    @staticmethod
    def _batch(seen: list[OpenSpielObservation]) -> Batch:
        return {
            "info_state": np.array([each.info_state for each in seen]),
            "legal_actions_mask": np.array([each.legal_actions_mask for each in seen]),
            "current_player_id": np.array([each.current_player_id for each in seen]),
        }
