"""The transition table, and a runner that keeps to it whatever comes."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from openenv_async import Environment
from openenv_async.engine.requests import Codecs, Unfinished
from openenv_async.engine.runner import EnvironmentRunner
from openenv_async.errors import (
    EpisodeEnded,
    EpisodeNotStarted,
    OpenEnvError,
    ProtocolError,
    SessionClosed,
)
from openenv_async.protocol.frames import (
    Begun,
    Close,
    Closed,
    Failed,
    Observation,
    Open,
    Opened,
    Reset,
    State,
    StateIs,
    Step,
)
from openenv_async.protocol.lifecycle import LENIENT, START, TRANSITIONS, Move, Phase, advance
from openenv_async.spec import EnvironmentSpec
from tests.helpers import pack, token, unpack

ROOT = Path(__file__).parents[2]
F, R, E, C = Phase
NOT_STARTED, OVER, CLOSED, NEVER = EpisodeNotStarted, EpisodeEnded, SessionClosed, ProtocolError
TABLE: dict[Move, tuple[Phase | type[OpenEnvError], ...]] = {
    #             fresh        running  ended  closed
    Move.RESET: (F, F, F, CLOSED),
    Move.BEGIN: (R, NEVER, NEVER, CLOSED),
    Move.STEP: (NOT_STARTED, R, OVER, CLOSED),
    Move.END: (E, E, NEVER, CLOSED),
    Move.STATE: (F, R, E, CLOSED),
    Move.CLOSE: (C, C, C, CLOSED),
}


def test_upstreams_sessions_only_differ_in_steps_outside_an_episode() -> None:
    for phase in (F, E):
        assert advance(phase, Move.STEP, LENIENT) is R
        others = {move: after for move, after in LENIENT[phase].items() if move is not Move.STEP}
        assert others == {m: a for m, a in TRANSITIONS[phase].items() if m is not Move.STEP}
    for phase in (R, C):
        assert LENIENT[phase] == TRANSITIONS[phase]


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("move", Move)
def test_every_move_in_every_phase(phase: Phase, move: Move) -> None:
    wanted = TABLE[move][phase]
    if isinstance(wanted, Phase):
        assert advance(phase, move) is wanted
        return
    assert move not in TRANSITIONS[phase]
    with pytest.raises(wanted) as caught:
        advance(phase, move)
    assert type(caught.value) is wanted
    if wanted is ProtocolError:
        assert caught.value.message == (
            f"an episode cannot {move.value} while it is {phase.name.lower()}"
        )
    else:
        assert caught.value.phase == move.value
        assert "call reset() first" in caught.value.message or "open a new" in caught.value.message


def test_a_step_too_early_and_one_too_late_are_told_apart() -> None:
    with pytest.raises(EpisodeNotStarted, match=r"step\(\) before reset"):
        advance(Phase.FRESH, Move.STEP)
    with pytest.raises(EpisodeEnded, match=r"step\(\) after the episode ended"):
        advance(Phase.ENDED, Move.STEP)
    assert START is Phase.FRESH


def test_nothing_sets_a_phase_of_a_session_by_hand() -> None:
    """One function advances a runner's phase, and nothing else has one."""
    found = []
    for path in sorted((ROOT / "openenv_async").rglob("*.py")):
        if path.parent.name in ("pool", "rollouts"):  # phases of workers and rollouts
            continue
        tree = ast.parse(path.read_text())
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                targets: list[ast.expr] = []
                if isinstance(node, ast.Assign):
                    targets = node.targets
                elif isinstance(node, ast.AnnAssign | ast.AugAssign):
                    targets = [node.target]
                if any(ast.unparse(at) == "self.phase" for at in targets):  # an error has one too
                    assert isinstance(node, ast.Assign)
                    found.append((path.name, function.name, ast.unparse(node.value)))
    assert found == [
        ("runner.py", "__init__", "START"),
        ("runner.py", "_move", "advance(self.phase, move, self._moves)"),
    ]


class Obedient(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Fails and ends when its action says so; counts what reached it."""

    isolation = "inline"

    def __init__(self) -> None:
        self.calls: list[str] = []

    def reset(self, *, fail: bool = False, over: bool = False) -> dict[str, Any]:
        self.calls.append("reset")
        if fail:
            raise RuntimeError("reset failed")
        return {"terminated": over}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        self.calls.append("step")
        if action.get("fail"):
            raise RuntimeError("step failed")
        return {"truncated": action.get("end", False)}

    def state(self) -> dict[str, Any]:
        self.calls.append("state")
        return {}

    def close(self) -> None:
        self.calls.append("close")


SPEC = EnvironmentSpec(Obedient)
CODECS = Codecs(SPEC, "msgpack")


class Lifecycle(RuleBasedStateMachine):
    """Random requests; the phase follows the table and the environment sees what it may see."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = EnvironmentRunner(SPEC)
        self.seq = 0
        self.phase = Phase.FRESH
        self.expected: list[str] = []
        self.steps = 0
        assert isinstance(self.ask(Open(1, token(1), token(2))), Opened)

    def ask(self, request: Any) -> Any:
        reply = self.runner.handle(request, CODECS)
        assert not isinstance(reply, Unfinished)
        assert reply.channel == 1
        if not isinstance(request, Open):
            assert reply.seq == request.seq  # answered exactly once, and as what was asked
        return reply

    def next(self) -> int:
        self.seq += 1
        return self.seq

    def refused(self, reply: Any, code: str) -> None:
        assert isinstance(reply, Failed)
        assert reply.code == code

    @rule(fail=st.booleans(), over=st.booleans(), seed=st.none() | st.integers(0, 2**31))
    def reset(self, fail: bool, over: bool, seed: int | None) -> None:
        payload = pack({"fail": fail, "over": over})
        reply = self.ask(Reset(1, self.next(), 0, payload, seed))
        if self.phase is Phase.CLOSED:
            return self.refused(reply, "session_closed")
        self.expected.append("reset")
        self.steps = 0
        if fail:
            self.phase = Phase.FRESH
            return self.refused(reply, "environment_raised")
        self.phase = Phase.ENDED if over else Phase.RUNNING
        assert isinstance(reply, Begun)
        assert reply.terminated == over
        assert reply.seed == seed if seed is not None else reply.seed >= 0
        assert reply.episode_id
        return None

    @rule()
    def reset_with_an_unknown_option(self) -> None:
        before = self.phase
        reply = self.ask(Reset(1, self.next(), 0, pack({"nope": 1})))
        self.refused(reply, "session_closed" if before is Phase.CLOSED else "invalid_option")

    @rule(fail=st.booleans(), end=st.booleans())
    def step(self, fail: bool, end: bool) -> None:
        reply = self.ask(Step(1, self.next(), 0, pack({"fail": fail, "end": end})))
        if self.phase is not Phase.RUNNING:
            code = {
                Phase.FRESH: "episode_not_started",
                Phase.ENDED: "episode_ended",
                Phase.CLOSED: "session_closed",
            }[self.phase]
            return self.refused(reply, code)
        self.expected.append("step")
        if fail:
            return self.refused(reply, "environment_raised")
        self.steps += 1
        assert isinstance(reply, Observation)
        assert reply.truncated == end
        if end:
            self.phase = Phase.ENDED
        return None

    @rule(payload=st.sampled_from([b"\xc1", pack([1]), pack(5), b""]))
    def step_with_a_bad_action(self, payload: bytes) -> None:
        reply = self.ask(Step(1, self.next(), 0, payload))
        assert isinstance(reply, Failed)
        if self.phase is Phase.RUNNING:
            assert reply.code == "invalid_action"

    @rule()
    def state(self) -> None:
        reply = self.ask(State(1, self.next()))
        if self.phase is Phase.CLOSED:
            return self.refused(reply, "session_closed")
        self.expected.append("state")
        assert isinstance(reply, StateIs)
        assert reply.step_count == self.steps
        assert unpack(reply.payload) == {}
        return None

    @rule()
    def close(self) -> None:
        reply = self.ask(Close(1, self.next()))
        assert isinstance(reply, Closed)  # closing twice is no error here
        if self.phase is not Phase.CLOSED:
            self.expected.append("close")
        self.phase = Phase.CLOSED

    @invariant()
    def phases_agree(self) -> None:
        assert self.runner.phase is self.phase

    @invariant()
    def the_environment_saw_what_it_may_see(self) -> None:
        assert self.runner.env.calls == self.expected


TestLifecycle = Lifecycle.TestCase
