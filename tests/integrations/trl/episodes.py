"""Rollout functions for a small environment, with a tokenizer of bytes and a scripted model."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from openenv_async.integrations.trl import (
    TextFormat,
    episode_rows,
    make_rollout_func,
    reset_from_json,
)

END = 256
Row = dict[str, Any]


class Letters:
    """A tokenizer of bytes, with an end token."""

    eos_token_id = pad_token_id = END
    chat_template = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return bytes(i for i in ids if i != END).decode()


TRAINER = SimpleNamespace(processing_class=Letters(), max_completion_length=64)


class Scripted:
    """Says one word after the other in every episode; notes what it was asked."""

    def __init__(self, *words: str) -> None:
        self.words = [[*word.encode(), END] for word in words]
        self.batches: list[list[str]] = []
        self.threads: set[int] = set()

    def __call__(
        self, trainer: Any, prompt_ids: list[list[int]], most: int
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        self.threads.add(threading.get_ident())
        self.batches.append([Letters().decode(ids) for ids in prompt_ids])
        said = [self.words[min(ids.count(END), len(self.words) - 1)] for ids in prompt_ids]
        return said, [[-0.5] * len(ids) for ids in said]


def as_action(text: str) -> Any:
    return {"text": text}


def prompts_of(*options: Row) -> list[Any]:
    return [row["prompt"][0]["content"] for row in episode_rows(options)]


def talking(source: Any, *words: str, **options: Any) -> Any:
    """A rollout function for ``Talk``, whose prompts say how to reset it."""
    format = TextFormat(as_action)
    # The row's prompt only names the episode: it is not shown.
    hidden = SimpleNamespace(
        begin=lambda prompt, seen, tokenizer: format.begin("", seen, tokenizer),
        action=format.action,
        follow=format.follow,
    )
    return make_rollout_func(
        source,
        format=hidden,
        reset=reset_from_json,
        generate=Scripted(*(words or ("abc", "de"))),
        **options,
    )


def text_of(ids: list[int], mask: list[int], kind: int) -> str:
    return bytes(i for i, m in zip(ids, mask, strict=True) if m == kind and i != END).decode()
