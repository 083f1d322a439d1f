"""OpenEnv's keywords of ``create_app``: taken, or refused with what to write instead."""

from __future__ import annotations

from typing import Any, cast

import pytest

from openenv_async import Environment, create_app
from openenv_async.server import HTTPEnvServer


class Say(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Say nothing."""

    async def reset(self) -> dict[str, Any]:
        return {}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        return {}


PAIR: Any = dict[str, int]


def test_keywords_that_mean_the_same() -> None:
    app = create_app(
        Say,
        action_cls=PAIR,
        observation_cls=PAIR,
        state_cls=PAIR,
        env_name="said",
        max_concurrent_envs=3,
    )
    server = app.state.openenv
    assert server.spec.name == "said"
    assert {"action": PAIR, "observation": PAIR, "state": PAIR}.items() <= server.spec.types.items()
    assert server.engine.options.max_sessions == 3


def test_the_positions_of_upstreams_server() -> None:
    server = HTTPEnvServer(Say, PAIR, PAIR, env_name=None, concurrency_config=None)
    assert server.spec.name != "None"
    assert server.engine.options.max_sessions == 1024


@pytest.mark.parametrize(
    ("keyword", "hint"),
    [
        ("concurrency_config", r"options=EngineOptions\(max_sessions=….*idle.*compat\.upstream"),
        ("reset_observation_cls", r"observation=A \| B"),
        ("gradio_builder", "the page at /"),
        ("custom_tab_name", "the page at /"),
        ("custom_tab_primary", "the page at /"),
        ("show_default_tab", "the page at /"),
        ("title_override", "name="),
        ("tokens", "did you mean token="),
        ("quite_another", "it takes action, observation, "),
    ],
)
def test_keywords_that_are_refused(keyword: str, hint: str) -> None:
    with pytest.raises(TypeError, match=f"take no argument '{keyword}': .*{hint}"):
        create_app(Say, **cast("Any", {keyword: "x"}))


def test_the_same_said_twice() -> None:
    with pytest.raises(TypeError, match="env_name or name, which say the same"):
        create_app(Say, name="one", env_name="two")


def test_a_name_in_the_place_of_the_state() -> None:
    with pytest.raises(TypeError, match="got 'said': give the name by keyword"):
        create_app(Say, PAIR, PAIR, "said")


def test_every_keyword_of_ours_is_told() -> None:
    import inspect

    from openenv_async.server import app

    own = [p.name for p in inspect.signature(HTTPEnvServer).parameters.values()]
    assert own == ["env", *app._KEYWORDS, "upstream"]
    assert inspect.signature(create_app).parameters.keys() == {*own}
