"""GRPO with TRL where the environment is a tool of the model: a number is guessed in few turns.

The chat environment's game is played by calls of one tool, guess(number), whose answers come back
as tool messages. The model is a tiny random one that first learns from a few demonstrations what
a tool call looks like, so that this runs on a CPU in minutes; a model that knows tools needs none.

    python examples/trl_environment_factory.py            # 30 steps
    python examples/trl_environment_factory.py --smoke    # 2 steps

Needs: pip install 'openenv-async[trl]' openenv-async-chat.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from statistics import fmean
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import tokenizers
import torch
from cpu_training import config, logged, parser, prepare, tenths  # type: ignore[import-not-found]  # beside this file
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOTrainer
from trl.chat_template_utils import qwen3_chat_template

from openenv_async.integrations.trl import make_environment_factory

GENERATIONS = 16
OPENING = "I think of a whole number from 1 to 15. Guess it; I say higher or lower."
CALL = (
    '<tool_call>\n{{"name": "guess", "arguments": {{"number": {number}}}}}\n</tool_call><|im_end|>'
)


def guess(number: int) -> Any:
    """Guess the number.

    Args:
        number: A whole number from 1 to 15.
    """
    return {"message": str(number)}


def tiny() -> tuple[Any, Any]:
    """A random model of 0.1 million parameters; a small tokenizer whose template knows tools."""
    words = tokenizers.Tokenizer(tokenizers.models.BPE())
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator([qwen3_chat_template, guess.__doc__, OPENING, CALL], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = qwen3_chat_template
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config), tokenizer


def demonstrate(model: Any, tokenizer: Any, tools: list[Any], steps: int) -> None:
    """Teach the form of a call, with numbers drawn from the middle."""
    rng = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    given = tokenizer.apply_chat_template(
        [{"role": "user", "content": OPENING}],
        tools=tools,
        add_generation_prompt=True,
        return_dict=False,
    )
    for _ in range(steps):
        said = tokenizer.encode(CALL.format(number=rng.randint(8, 12)))
        ids = torch.tensor([given + said])
        labels = ids.clone()
        labels[:, : len(given)] = -100
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def train(model: Any, tokenizer: Any, factory: Any, args: argparse.Namespace) -> Any:
    """Train; what was logged of each step."""
    rows = [
        {"prompt": [{"role": "user", "content": ""}], "task": f"guess-{args.secret}", "seed": n}
        for n in range(args.steps)
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            environment_factory=factory,
            train_dataset=Dataset.from_list(rows),
            args=config(
                args,
                folder,
                seed=args.seed,
                batch=GENERATIONS,
                generations=GENERATIONS,
                max_tool_calling_iterations=1,
            ),
        )
        trainer.train()
    return logged(trainer)


def main() -> None:
    options = parser(__doc__, steps=30, tokens=96, learning_rate=5e-4)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--demonstrations", type=int, default=200)
    options.add_argument("--secret", type=int, default=11, help="the number, 1 to 15")
    args = options.parse_args()
    if args.smoke:
        args.steps, args.demonstrations, args.tokens = 2, 5, 24
    prepare(args, args.seed)
    begun = time.perf_counter()
    model, tokenizer = tiny()
    # An episode in which the model never guesses is its own doing: it is worth 0, not left out.
    factory = make_environment_factory("chat", tools=[guess], unplayed_reward=0.0, name="Guessing")
    demonstrate(model, tokenizer, [factory().guess], args.demonstrations)
    entries = train(model, tokenizer, factory, args)
    rewards = [entry["reward"] for entry in entries]
    first, last = tenths(rewards)
    report = {
        "seed": args.seed,
        "steps": len(rewards),
        "first": round(first, 3),
        "last": round(last, 3),
        "calls an episode": round(fmean(e["tools/call_frequency"] for e in entries), 3),
        "seconds": round(time.perf_counter() - begun, 1),
        "rewards": [round(each, 3) for each in rewards],
    }
    print(json.dumps(report), flush=True)
    factory.close()


if __name__ == "__main__":
    main()
