"""Sessions driven through upstream's public ``EnvClient``; runs in upstream's environment.

The client class is what upstream's project template gives an author: typed actions in, typed
observations out.
"""

from __future__ import annotations

import base64
from functools import partial
from typing import Any

from openenv.core import EnvClient
from openenv.core.client_types import StepResult
from openenv.core.env_server.types import Action, Observation, State

from benchmarks.driver import MESSAGE, Session, client_parser, run


class EchoAction(Action):
    """A message of the agent."""

    message: str


class EchoObservation(Observation):
    """The reply to it."""

    message: str


class IntsObservation(EchoObservation):
    """An observation with a frame as the list of ints that came over the wire."""

    frame: list[int]


class Base64Observation(EchoObservation):
    """An observation with a frame that was decoded from base64."""

    frame: bytes


class EchoEnv(EnvClient[EchoAction, EchoObservation, State]):
    """The hooks an author writes."""

    def _step_payload(self, action: EchoAction) -> dict[str, Any]:
        return {"message": action.message}

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[EchoObservation]:
        data = payload["observation"]
        fields = {
            "message": data["message"],
            "done": payload["done"],
            "reward": payload["reward"],
            "metadata": data["metadata"],
        }
        frame = data.get("frame")
        observation: EchoObservation
        if frame is None:
            observation = EchoObservation(**fields)
        elif isinstance(frame, str):
            observation = Base64Observation(**fields, frame=base64.b64decode(frame))
        else:
            observation = IntsObservation(**fields, frame=frame)
        return StepResult(observation=observation, reward=payload["reward"], done=payload["done"])

    def _parse_state(self, payload: dict[str, Any]) -> State:
        return State(**payload)


def main() -> None:
    args = client_parser(__doc__).parse_args()
    action = EchoAction(message=MESSAGE)

    def check(result: StepResult[EchoObservation]) -> None:
        observation = result.observation
        assert isinstance(observation, EchoObservation)
        assert observation.message == MESSAGE
        assert len(getattr(observation, "frame", b"")) == args.payload_bytes

    async def open_session() -> Session:
        env = EchoEnv(args.url)
        await env.connect()
        return Session(env.reset, partial(env.step, action), check, env.close)

    run(open_session, args)


if __name__ == "__main__":
    main()
