"""Run by test_trl, all that needs torch in one process: importing it takes the most time.

GRPO steps on a tiny model with episodes that fail, and what TRL made of them; then the examples.
Prints one JSON object. Usage: python tests/integrations/trl_steps.py URL FOLDER
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
from chat_env.tokenizer import load_tokenizer
from datasets import Dataset  # type: ignore[import-untyped]  # it has no types
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]  # made on first use
from trl.trainer.utils import shutdown_event_loop_in_daemon, start_event_loop_in_daemon

from openenv_async.integrations.trl import (
    TextFormat,
    episode_rows,
    make_environment_factory,
    make_reward_func,
    make_rollout_func,
    rollout_reward,
)
from tests.integrations.trl_worlds import say

Row = dict[str, Any]


def baseline(url: str, folder: str) -> Row:
    set_seed(0)
    make_tokenizer: Any = PreTrainedTokenizerFast  # untyped
    tokenizer = make_tokenizer(
        tokenizer_object=load_tokenizer().tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True, eos_token_id=2,
        pad_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    options: Any = iter(())
    rollouts = make_rollout_func(
        url,
        format=TextFormat(lambda text: {"text": text}),
        reset=lambda prompt: next(options),
        max_turn_tokens=6,
        max_completion_length=48,
    )
    rows: Row = {}

    def noted(prompts: Any, trainer: Any) -> Row:
        out = rollouts(["tell"] * len(prompts), trainer)
        rows.update(out)
        return out

    def train(episodes: list[Row], *others: Any) -> tuple[Any, list[Any], bool]:
        nonlocal options
        options = itertools.cycle(episodes)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        trainer = GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=[rollout_reward, *others],
            rollout_func=noted,
            train_dataset=Dataset.from_list(episode_rows([{"number": 0}])),
            args=GRPOConfig(
                output_dir=folder, max_steps=1, per_device_train_batch_size=4, num_generations=4,
                max_completion_length=48, learning_rate=1e-2, gradient_checkpointing=False,
                logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
                use_cpu=True, temperature=1.3,
            ),
        )  # fmt: skip
        trainer.train()
        moved = any(not torch.equal(before[k], v) for k, v in model.state_dict().items())
        return trainer, list(trainer._logs["advantages"]), moved

    def gap() -> float:
        """Between the log probabilities that came with the rollouts and those of the model."""
        worst = 0.0
        for row in range(4):
            ids = rows["prompt_ids"][row] + rows["completion_ids"][row]
            start = len(rows["prompt_ids"][row])
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0].float() / 1.3
            values = torch.log_softmax(logits, -1)
            for place, given in enumerate(rows["logprobs"][row]):
                if rows["env_mask"][row][place]:
                    own = values[start + place - 1, ids[start + place]].item()
                    worst = max(worst, abs(own - given))
        return worst

    _, nothing, moved = train([{"fault": "raises"}])
    assert moved is any(nothing)
    finite = all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    failed = {"advantages": nothing, "finite": finite, "moved": moved}
    # The model moves after its rollouts: to compare with it, take a copy from before.
    start = {name: value.clone() for name, value in model.state_dict().items()}
    _, advantages, _ = train([{}, {"fault": "raises"}, {}, {"fault": "reset raises"}])
    mixed = [
        {"reward": reward, "advantage": advantage}
        for reward, advantage in zip(rows["env_reward"], advantages, strict=True)
    ]
    model.load_state_dict(start)
    distance = gap()

    def constant(completions: Any, **columns: Any) -> list[float]:
        return [10.0] * len(completions)

    _, beside, _ = train([{}, {"fault": "raises"}, {}, {"fault": "reset raises"}], constant)
    others = [
        {"reward": None if reward is None else reward + 10.0, "advantage": advantage}
        for reward, advantage in zip(rows["env_reward"], beside, strict=True)
    ]
    return {"with": mixed, "beside": others, "all failed": failed, "logprobs gap": distance}


def masked(url: str) -> Row:
    """The rewards of TRL's own code for failed rows, in each combination of reward functions.

    By combination, the rows that it would leave out: those without a reward from any function.
    """

    def lengths(completions: Any, **columns: Any) -> list[float]:
        return [1.0] * len(completions)

    async def slow(completions: Any, **columns: Any) -> list[float]:
        return [2.0] * len(completions)

    def of_row(row: Any) -> Row:
        return {"fault": row["fault"]}

    def to_action(completion: Any, ids: Any) -> Any:
        return {"text": completion}

    faults = ["", "reset raises", "", "unrewarded"]
    factory = make_environment_factory(url, tools=[say], unplayed_reward=0.5)
    environments = [factory() for _ in faults]
    for environment, fault in zip(environments, faults, strict=True):
        environment.reset(fault=fault)

    def own(environments: Any, **columns: Any) -> list[Any]:
        return [environment.get_reward() for environment in environments]

    blocking, later = (
        make_reward_func(url, to_action, reset=of_row, blocking=is_blocking)
        for is_blocking in (True, False)
    )
    loop_thread, loop, ready = start_event_loop_in_daemon(name="rewards")
    ready.wait()

    def left_out(functions: list[Any], made: list[Any] | None, **columns: list[Any]) -> list[int]:
        trainer: Any = object.__new__(GRPOTrainer)
        trainer.accelerator = SimpleNamespace(device=torch.device("cpu"), is_main_process=True)
        trainer.args = SimpleNamespace(report_to=[])
        trainer.state = SimpleNamespace(global_step=0)
        trainer.environments = made
        trainer.reward_funcs = functions
        trainer.reward_func_names = [function.__name__ for function in functions]
        trainer.reward_processing_classes = [None] * len(functions)
        trainer.async_loop = loop
        trainer._metrics = {}
        inputs = [
            {name: values[number] for name, values in columns.items()} | {"prompt": "p"}
            for number in range(len(faults))
        ]
        words = ["a", "bb", "c", "d"]
        rewards = trainer._calculate_rewards(inputs, ["p"] * 4, words, [[1]] * 4)
        return torch.isnan(rewards).all(dim=1).nonzero().flatten().tolist()

    def exploding(completions: Any, **columns: Any) -> list[float]:
        return [1.0, 1.0, float("inf"), 1.0]

    found = {
        "environments": left_out([own, lengths, slow], environments),
        "environments, other first": left_out([slow, own], environments),
        "rollout_func": left_out([lengths, slow], None, env_failed=[False, True, False, False]),
        "scored": left_out([blocking, lengths], None, fault=faults),
        "scored last": left_out([lengths, slow, blocking], None, fault=faults),
        "scored later": left_out([later, lengths, slow], None, fault=faults),
        "infinite": left_out([exploding, lengths], None),
        "nothing failed": left_out([lengths], None),
    }
    factory.close()
    shutdown_event_loop_in_daemon(loop_thread, loop)
    return found


def smoke(name: str) -> Row:
    """The report of an example's smoke run."""
    path = Path(__file__).resolve().parents[2] / "examples" / name
    sys.argv = [str(path), "--smoke", "--threads", "1"]
    sys.path[0] = str(path.parent)  # as for a script that is started itself
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(path), run_name="__main__")
    found = next(line for line in printed.getvalue().splitlines() if line.startswith('{"'))
    return dict(json.loads(found))


def main(url: str, folder: str) -> None:
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(sys.stderr):
        made = {"baseline": baseline(url, folder), "masked": masked(url)}
    for name in ("trl_grpo.py", "trl_environment_factory.py"):
        made[name] = smoke(name)
    sys.stdout.write(json.dumps(made))


if __name__ == "__main__":
    main(*sys.argv[1:])
