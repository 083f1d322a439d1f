"""Sessions of the Atari environment driven through this project's public ``EnvClient``."""

from __future__ import annotations

from typing import Any

from atari_env import AtariAction, AtariEnv

from benchmarks.driver import Session, client_parser, run
from openenv_async import StepResult


def main() -> None:
    args = client_parser(__doc__).parse_args()
    action = AtariAction(3)

    def check(result: StepResult[Any]) -> None:
        assert result.observation.screen.shape == (210, 160, 3)

    async def open_session() -> Session:
        env = AtariEnv(args.url)
        await env.open()

        async def step() -> StepResult[Any]:
            result = await env.step(action)
            if result.done:  # the benchmark's loop does not stop
                await env.reset(seed=0)
            return result

        return Session(lambda: env.reset(seed=0), step, check, env.close)

    run(open_session, args)


if __name__ == "__main__":
    main()
