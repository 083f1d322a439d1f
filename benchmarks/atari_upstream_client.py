"""Sessions of ``atari_upstream_server`` driven through upstream's public ``EnvClient``."""

from __future__ import annotations

from functools import partial
from typing import Any

from openenv.core import EnvClient
from openenv.core.client_types import StepResult
from openenv.core.env_server.types import State

from benchmarks.atari_upstream_server import AtariAction, AtariObservation
from benchmarks.driver import Session, client_parser, run


class AtariEnv(EnvClient):  # type: ignore[misc]  # upstream is not installed where this is checked
    """The hooks as upstream's own Atari client has them."""

    def _step_payload(self, action: AtariAction) -> dict[str, Any]:
        return {"action_id": action.action_id}

    def _parse_result(self, payload: dict[str, Any]) -> StepResult:
        data = payload["observation"]
        observation = AtariObservation(**data, done=payload["done"], reward=payload["reward"])
        return StepResult(observation=observation, reward=payload["reward"], done=payload["done"])

    def _parse_state(self, payload: dict[str, Any]) -> State:
        return State(**payload)


def main() -> None:
    args = client_parser(__doc__).parse_args()
    action = AtariAction(action_id=3)

    def check(result: StepResult) -> None:
        assert len(result.observation.screen) == 210 * 160 * 3

    async def open_session() -> Session:
        env = AtariEnv(args.url, max_message_size_mb=64)
        await env.connect()
        return Session(env.reset, partial(env.step, action), check, env.close)

    run(open_session, args)


if __name__ == "__main__":
    main()
