"""Atari as upstream's own environment serves it: the screen as a flat list of ints, in JSON.

Runs in upstream's virtual environment, which needs ale-py besides. Fields and pipeline are those
of upstream's ``atari_env``: RGB, frameskip 4, minimal action set, reward summed over the skip.
"""

from __future__ import annotations

from typing import Any

import uvicorn
from ale_py import ALEInterface, LoggerMode, roms
from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State

from benchmarks.driver import announce, raise_file_limit, server_parser


class AtariAction(Action):  # type: ignore[misc]  # upstream is not installed where this is checked
    """A place in the action set."""

    action_id: int


class AtariObservation(Observation):  # type: ignore[misc]  # as above
    """The screen, flat."""

    screen: list[int]
    screen_shape: list[int]
    legal_actions: list[int]
    lives: int
    episode_frame_number: int
    frame_number: int


class AtariEnvironment(Environment):  # type: ignore[misc]  # as above
    """One console."""

    SUPPORTS_CONCURRENT_SESSIONS: bool = True

    def __init__(self) -> None:
        super().__init__()
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.ale = ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)
        rom = roms.get_rom_path("pong")
        assert rom is not None
        self.ale.loadROM(rom)
        self.actions = self.ale.getMinimalActionSet()
        self._state = State(step_count=0)

    def _observe(self, reward: float | None) -> AtariObservation:
        screen = self.ale.getScreenRGB()
        return AtariObservation(
            screen=screen.flatten().tolist(),
            screen_shape=list(screen.shape),
            legal_actions=list(range(len(self.actions))),
            lives=self.ale.lives(),
            episode_frame_number=self.ale.getEpisodeFrameNumber(),
            frame_number=self.ale.getFrameNumber(),
            reward=reward,
        )

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any
    ) -> AtariObservation:
        self.ale.reset_game()
        self._state = State(episode_id=episode_id, step_count=0)
        return self._observe(None)

    def step(
        self, action: AtariAction, timeout_s: float | None = None, **kwargs: Any
    ) -> AtariObservation:
        reward = sum(self.ale.act(self.actions[action.action_id]) for _ in range(4))
        self._state.step_count += 1
        if self.ale.game_over():  # the benchmark's loop does not stop
            self.ale.reset_game()
        return self._observe(float(reward))

    @property
    def state(self) -> State:
        return self._state


class AnnouncingServer(uvicorn.Server):
    """The server of ``uvicorn.run``, which says where it listens."""

    async def startup(self, *args: Any, **kwargs: Any) -> None:
        await super().startup(*args, **kwargs)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        announce(f"http://{host}:{port}")


def main() -> None:
    args = server_parser(__doc__, ["sync"]).parse_args()
    raise_file_limit()
    app = create_app(
        AtariEnvironment,
        AtariAction,
        AtariObservation,
        env_name="atari",
        max_concurrent_envs=args.max_sessions,
    )
    config = uvicorn.Config(app, host="127.0.0.1", port=args.port, log_level="warning")
    AnnouncingServer(config).run()


if __name__ == "__main__":
    main()
