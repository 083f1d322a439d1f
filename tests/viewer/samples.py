"""Episodes of every kind that the viewer shows, and runs made of them."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path
from typing import Any

import numpy as np

from openenv_async.rollouts import Trajectory, Transition, open_writer
from openenv_async.types import Mistake, ModelCall, OutcomeStatus

__all__ = [
    "MARKUP",
    "agent_episode",
    "frames_episode",
    "marked_episode",
    "quick_episode",
    "write_sample",
]

MARKUP = '<img src=x onerror="globalThis.wasRun = 1"><script>globalThis.wasRun = 1</script>'
"""Text that would leave a mark on the page if it were taken for HTML."""


def quick_episode(
    number: int, *, better: float = 0.0, rng: random.Random | None = None
) -> Trajectory:
    """An episode of a language model with one step; later ones are better."""
    rng = rng or random.Random(number)
    chance = 1 / (1 + math.exp(-(number / 120 - 1.5 + better)))
    task, member = number // 4, number % 4
    made = Trajectory(number, episode_id=f"episode-{number}", seed=number)
    made.task_id, made.member = f"sum-{task % 40}", member
    made.group = task
    made.task = {"question": f"{task} + {member}"}
    made.started_at = 1_790_000_000 + number * 2.0
    failed = rng.random() < 0.06 * (1.2 - chance)
    reward = 0.0 if failed else float(rng.random() < chance)
    seconds = rng.uniform(0.4, 1.4)
    ids = [rng.randrange(50_000) for _ in range(rng.randrange(8, 40))]
    answer = f"The sum of {task} and {member} is {task + member}."
    call = ModelCall(
        messages=[
            {"role": "system", "content": "Answer with a number."},
            {"role": "user", "content": f"{task} + {member}"},
        ],
        reply={"role": "assistant", "content": answer, "reasoning_content": "Add the two."},
        continues=False,
        prompt_ids=list(range(20)),
        completion_ids=ids,
        logprobs=[-abs(rng.gauss(0, 0.8)) for _ in ids],
        mask=[0 if at < 3 else 1 for at in range(len(ids))],
        finish_reason="stop",
        model="small-model",
        weight_version=number // 100,
        seconds=seconds,
    )
    for step in range(1 + rng.randrange(5)):
        mistaken = rng.random() < 0.08
        made.transitions.append(
            Transition(
                step,
                f"{task} + {member}",
                {"number": task + member},
                None if mistaken else reward,
                info={"checked": True},
                model_calls=[
                    call if step == 0 else dataclasses.replace(call, messages=(), continues=True)
                ],
                mistake=Mistake("unreadable_reply", "there is no number in it", "UNREADABLE_REPLY")
                if mistaken
                else None,
                timings={
                    "queue": rng.uniform(0, 0.1),
                    "policy": seconds,
                    "model": seconds * 0.9,
                    "environment": rng.uniform(0.01, 0.2),
                    "codec": 0.004,
                },
            )
        )
    made.steps = len(made.transitions)
    made.mistakes = sum(each.mistake is not None for each in made.transitions)
    made.duration = made.steps * (seconds + 0.2)
    made.ended_at = made.started_at + made.duration
    made.status = OutcomeStatus.COMPLETED if rng.random() > 0.1 else OutcomeStatus.TRUNCATED
    made.episode_return = reward
    if failed:
        made.status, made.episode_return = OutcomeStatus.ENV_ERROR, None
        made.error_code, made.error_message = (
            "ENVIRONMENT_FAILED",
            "step() raised KeyError: 'board'",
        )
    return made


def agent_episode(number: int) -> Trajectory:
    """An agent with tools, and sub-agents that it called."""
    made = Trajectory(number, episode_id=f"agent-{number}", task_id="mend-the-build", member=0)
    made.started_at = made.ended_at = 1_790_000_000 + number * 2.0

    def call(at: int, text: str, **extra: Any) -> ModelCall:
        ids = [(7919 * at + 31 * place) % 50_000 for place in range(24)]
        tool = {"id": f"t{at}", "function": {"name": "shell", "arguments": '{"command": "make"}'}}
        return ModelCall(
            messages=[{"role": "user" if at == 0 else "tool", "content": f"output {at}"}],
            reply={"role": "assistant", "content": text, "tool_calls": [tool]},
            continues=at not in (0, 2, 4),
            completion_ids=ids,
            logprobs=[-0.02 * ((place * 7) % 90) for place in range(24)],
            model="small-model",
            seconds=0.5 + at / 10,
            finish_reason="tool_calls",
            extra={"call": f"s-{at}", **extra},
        )

    calls = [
        call(0, "Look at the error first.", relation="main", chain=0),
        call(1, "Two helpers can look at once.", relation="main", chain=0),
        call(2, "I read the log.", relation="subagent", chain=2, parent=1),
        call(3, "The header is missing.", relation="subagent", chain=2, parent=1),
        call(4, "I list the files.", relation="subagent", chain=4, parent=2),
        call(5, "Then I add the header.", relation="main", chain=0),
    ]
    made.transitions = [
        Transition(
            0,
            {"text": "the build fails"},
            {"answer": "mended"},
            1.0,
            True,
            model_calls=calls,
            timings={"model": 4.0, "environment": 0.4, "queue": 0.2},
        )
    ]
    made.steps, made.duration, made.episode_return = 1, 5.0, 1.0
    made.status = OutcomeStatus.COMPLETED
    return made


def frames_episode(number: int, steps: int = 24) -> Trajectory:
    """An episode whose observations are pictures."""
    made = Trajectory(number, episode_id=f"frames-{number}", task_id="catch", member=0)
    made.started_at = made.ended_at = 1_790_000_000 + number * 2.0
    for step in range(steps):
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[:, :] = (18, 24, 38)
        top = 2 + step * 38 // steps
        frame[top : top + 5, 12 + step : 18 + step] = (240, 196, 60)
        frame[43:46, 8 + step : 26 + step] = (90, 170, 255)
        made.transitions.append(
            Transition(step, frame, step % 3, float(step == steps - 1), step == steps - 1)
        )
    made.steps, made.duration, made.episode_return = steps, steps / 30, 1.0
    made.status = OutcomeStatus.COMPLETED
    return made


def marked_episode(number: int) -> Trajectory:
    """An episode with markup wherever a text can stand."""
    made = Trajectory(number, episode_id=MARKUP, task_id=MARKUP, task={MARKUP: MARKUP})
    call = ModelCall(
        messages=[{"role": MARKUP, "content": MARKUP}],
        reply={"role": "assistant", "content": MARKUP, "tool_calls": [{"function": MARKUP}]},
        model=MARKUP,
        completion_ids=[1, 2],
        extra={"relation": MARKUP, "chain": 0},
    )
    made.transitions = [
        Transition(0, MARKUP, {MARKUP: MARKUP}, 0.0, info={MARKUP: MARKUP}),
        Transition(1, MARKUP, MARKUP, 0.0, model_calls=[call], render=MARKUP),
    ]
    made.final_observation = MARKUP
    made.status, made.error_code, made.error_message = OutcomeStatus.ENV_ERROR, MARKUP, MARKUP
    made.error_detail = {"traceback": MARKUP}
    made.steps = 2
    return made


def write_sample(path: Path, count: int = 400, *, better: float = 0.0) -> Path:
    """Write a file of trajectories with episodes of all kinds but the marked ones."""
    with open_writer(path, header={"run": "sample"}) as writer:
        for number in range(count):
            if number == 3:
                writer.write(agent_episode(number))
            elif number == 5:
                writer.write(frames_episode(number))
            else:
                writer.write(quick_episode(number, better=better))
    return path
