"""Failed rows are left out of every reward function, by a wrapped method of the trainer's."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from openenv_async.integrations.trl.masking import failed_rows, mask_failures, masks

torch = pytest.importorskip("torch")


def test_a_row_failed_if_its_function_or_its_environment_says_so() -> None:
    assert failed_rows(3, None, None) == [False] * 3
    assert failed_rows(3, [None, True, 0], None) == [False, True, False]
    broken, fine = SimpleNamespace(_unusable=True), SimpleNamespace(_unusable=False)
    assert failed_rows(3, [True, False, False], [fine, broken, object()]) == [True, True, False]
    assert failed_rows(2, None, [broken, fine]) == [True, False]


class Trainer:
    """Calculates the rewards that it was given."""

    environments: Any = None

    def __init__(self, rewards: list[list[float]], *functions: Any) -> None:
        self.rewards = torch.tensor(rewards)
        self.reward_funcs = functions
        self.accelerator = SimpleNamespace(gather=lambda mask: torch.cat([mask, mask]))

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, *others: Any) -> Any:
        return self.rewards


@pytest.fixture
def trainer_class(monkeypatch: pytest.MonkeyPatch) -> Any:
    cls = type("GRPOTrainer", (Trainer,), {"_calculate_rewards": Trainer._calculate_rewards})
    module = SimpleNamespace(GRPOTrainer=cls)
    monkeypatch.setitem(sys.modules, "trl.trainer.grpo_trainer", module)
    monkeypatch.delitem(sys.modules, "trl.trainer.rloo_trainer", raising=False)
    return cls


def left_out(trainer: Any, inputs: list[dict[str, Any]]) -> list[bool]:
    names = [str(number) for number in range(len(inputs))]
    rewards = trainer._calculate_rewards(inputs, names, names)
    gone = torch.isnan(rewards)
    assert (gone.all(dim=1) == gone.any(dim=1)).all()  # whole rows
    return [bool(each) for each in gone.all(dim=1)]


def test_a_trainer_is_wrapped_once_and_its_subclasses_with_it(trainer_class: Any) -> None:
    assert not masks(trainer_class)
    mask_failures()
    assert masks(trainer_class)
    assert masks(type("Mine", (trainer_class,), {}))
    wrapped = trainer_class._calculate_rewards
    mask_failures()
    assert trainer_class._calculate_rewards is wrapped
    assert wrapped.__name__ == "_calculate_rewards"


def test_rows_of_failed_episodes_are_left_out_of_every_function(trainer_class: Any) -> None:
    mask_failures()
    made = trainer_class([[1.0, 2.0], [3.0, 4.0]])
    assert left_out(made, [{"env_failed": True}, {"env_failed": False}]) == [True, False]
    assert left_out(made, [{}, {}]) == [False, False]
    made.environments = [object(), SimpleNamespace(_unusable=True)]
    assert left_out(made, [{}, {}]) == [False, True]


def test_a_scorer_that_failed_is_asked_for_its_rows(trainer_class: Any) -> None:
    mask_failures()
    scorer = SimpleNamespace(failed_of=lambda completions: [text == "1" for text in completions])
    made = trainer_class([[1.0], [2.0], [3.0]], len, SimpleNamespace(scorer=scorer))
    assert left_out(made, [{"env_failed": True}, {}, {}]) == [True, True, False]


def test_an_infinite_reward_is_left_out_with_its_row(trainer_class: Any) -> None:
    mask_failures()
    made = trainer_class([[1.0, float("inf")], [2.0, 2.0], [float("-inf"), 0.0]])
    assert left_out(made, [{}, {}, {}]) == [True, False, True]


def test_rows_of_all_processes_are_gathered(trainer_class: Any) -> None:
    mask_failures()
    made = trainer_class([[1.0], [2.0], [3.0], [4.0]])
    rewards = made._calculate_rewards([{"env_failed": True}, {}], ["0", "1"], ["0", "1"])
    assert torch.isnan(rewards).flatten().tolist() == [True, False, True, False]


def test_a_release_without_the_method_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = SimpleNamespace(GRPOTrainer=type("GRPOTrainer", (), {}))
    monkeypatch.setitem(sys.modules, "trl.trainer.grpo_trainer", module)
    with caplog.at_level(logging.WARNING, "openenv_async.integrations.trl"):
        mask_failures()
    assert "no GRPOTrainer._calculate_rewards: wrap every other reward function" in caplog.text
    assert not masks(module.GRPOTrainer)
