"""Sessions driven through this project's public ``EnvClient``.

Clients of one address share a connection, as they do for any user who does not say otherwise.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.driver import MESSAGE, Session, client_parser, run
from benchmarks.ours_server import EchoAction, EchoObservation, FrameObservation
from openenv_async import EnvClient, StepResult, Timeouts


class EchoEnv(EnvClient[EchoAction, EchoObservation, dict[str, Any]]):
    """Codecs come from the type parameters."""


class FrameEnv(EnvClient[EchoAction, FrameObservation, dict[str, Any]]):
    """A client with a frame in every observation."""


def main() -> None:
    args = client_parser(__doc__).parse_args()
    action = EchoAction(message=MESSAGE)
    client_class = FrameEnv if args.payload_bytes else EchoEnv

    timeouts = None
    if args.bare:
        timeouts = Timeouts(**dict.fromkeys(("open", "reset", "step", "state"), None))

    def check(result: StepResult[Any]) -> None:
        observation = result.observation
        if isinstance(observation, FrameObservation):
            assert observation.frame.nbytes == args.payload_bytes
        else:
            assert isinstance(observation, EchoObservation)
        assert observation.message == MESSAGE
        assert result.reward == 1.0

    async def open_session() -> Session:
        env: EnvClient[EchoAction, Any, dict[str, Any]] = client_class(args.url, timeouts=timeouts)
        await env.open()
        return Session(env.reset, partial(env.step, action), check, env.close)

    run(open_session, args)


if __name__ == "__main__":
    main()
