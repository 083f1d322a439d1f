"""Generation in batches: with the trainer's model, and of episodes that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

__all__ = ["Batcher", "Generate", "Request", "generate"]

Generated = tuple[list[list[int]], list[list[float]] | None]


class Generate(Protocol):
    """A function that samples a completion for each prompt."""

    def __call__(
        self, trainer: Any, prompt_ids: list[list[int]], max_new_tokens: int, /
    ) -> Generated:
        """Completion ids without padding, and the log probability of each of their tokens."""
        ...


def generate(trainer: Any, prompt_ids: list[list[int]], max_new_tokens: int) -> Generated:
    """Sample with the trainer's model and settings; in the trainer's thread.

    Log probabilities are those of the distribution at the trainer's temperature, before top-k and
    top-p, as TRL computes its own. With vLLM they are vLLM's.
    """
    if trainer.use_vllm or getattr(trainer, "use_transformers_continuous_batching", False):
        ids, logprobs = trainer._generate_single_turn(prompt_ids, None, {}, 1)
        cut = [each[:max_new_tokens] for each in ids]
        return cut, None if logprobs is None else [each[:max_new_tokens] for each in logprobs]
    import copy

    import torch
    from trl.models.utils import unwrap_model_for_generation

    config = copy.copy(trainer.generation_config)
    config.max_new_tokens = max_new_tokens
    tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
    device = trainer.accelerator.device
    width = max(map(len, prompt_ids))
    pad = [[tokenizer.pad_token_id] * (width - len(ids)) for ids in prompt_ids]
    inputs = torch.tensor([p + ids for p, ids in zip(pad, prompt_ids, strict=True)], device=device)
    mask = torch.tensor(
        [[0] * len(p) + [1] * len(ids) for p, ids in zip(pad, prompt_ids, strict=True)],
        device=device,
    )
    seen = _sampled_logprobs(float(config.temperature or 1.0), width)
    with (
        unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=trainer.args.ds3_gather_for_generation,
            generation_kwargs=trainer.generation_kwargs,
        ) as model,
        torch.no_grad(),
        trainer._dist.summon_full_params(trainer.model_wrapped, recurse=False),
    ):
        out = model.generate(
            input_ids=inputs, attention_mask=mask, generation_config=config, logits_processor=[seen]
        )
    logprobs = seen.finish(out)
    ends = set(trainer.eos_token_ids)
    ids_list: list[list[int]] = []
    for row in out[:, width:].tolist():
        stop = next((place + 1 for place, token in enumerate(row) if token in ends), len(row))
        ids_list.append(row[:stop])
    rows = zip(logprobs.tolist(), ids_list, strict=True)
    return ids_list, [values[: len(ids)] for values, ids in rows]


def _sampled_logprobs(temperature: float, width: int) -> Any:
    """A logits processor that notes the log probability of what is sampled.

    It keeps one step's scores, not those of all steps: those are length × batch × vocabulary.
    """
    import torch
    from transformers import LogitsProcessor

    class SampledLogprobs(LogitsProcessor):
        def __init__(self) -> None:
            self._last: Any = None
            self._columns: list[Any] = []

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            self._settle(input_ids[:, -1:])
            self._last = torch.log_softmax(scores.float() / temperature, dim=-1)
            return scores

        def _settle(self, tokens: Any) -> None:
            if self._last is not None:
                self._columns.append(self._last.gather(1, tokens))
                self._last = None

        def finish(self, sequences: Any) -> Any:
            """The log probabilities [batch, new tokens] of the finished sequences."""
            self._settle(sequences[:, -1:])
            assert len(self._columns) == sequences.shape[1] - width
            return torch.cat(self._columns, dim=1)

    return SampledLogprobs()


@dataclass(eq=False)
class Request:
    """An episode that waits for its next message.

    Attributes:
        prompt_ids: what the model is to go on from.
        max_new_tokens: room that it has left.
        answer: tokens and log probabilities.
    """

    prompt_ids: list[int]
    max_new_tokens: int
    answer: asyncio.Future[tuple[list[int], list[float] | None]] = field(init=False)

    def __post_init__(self) -> None:
        self.answer = asyncio.get_running_loop().create_future()


_NEVER: Final = 3600.0


class Batcher:
    """The requests of episodes, gathered for a generator in another thread. It lives on one loop.

    A batch goes out when every running episode waits, or ``wait`` seconds after its first
    request, or when it is full; and the next gathers while that one is generated.

    Args:
        wait: seconds.
        max_batch: requests in a batch; ``None``: any number.
        running: how many episodes may ask now.
    """

    def __init__(self, wait: float, max_batch: int | None, running: Callable[[], int]) -> None:
        self._wait = wait
        self._max_batch = max_batch
        self._running = running
        self._waiting: list[Request] = []
        self._news = asyncio.Event()
        self._over = False

    async def ask(self, request: Request) -> tuple[list[int], list[float] | None]:
        """The completion of a request."""
        self._waiting.append(request)
        self._news.set()
        try:
            return await request.answer
        finally:
            if request in self._waiting:
                self._waiting.remove(request)

    def changed(self) -> None:
        """Note that an episode ended: those left may be all there is to wait for."""
        self._news.set()

    def finish(self) -> None:
        """Note that no more requests will come."""
        self._over = True
        self._news.set()

    async def take(self) -> list[Request] | None:
        """The next batch; ``None`` when there are none to come."""
        clock = asyncio.get_running_loop().time
        deadline = _NEVER + clock()
        while not self._over:
            count = len(self._waiting)
            if count and deadline > clock() + self._wait:
                deadline = clock() + self._wait
            full = self._max_batch is not None and count >= self._max_batch
            if count and (full or count >= self._running() or clock() >= deadline):
                most = self._max_batch or count
                batch, self._waiting = self._waiting[:most], self._waiting[most:]
                return batch
            self._news.clear()
            try:
                async with asyncio.timeout(max(0.0, deadline - clock()) if count else None):
                    await self._news.wait()
            except TimeoutError:
                continue
        return None

    def answer(
        self, batch: list[Request], ids: list[list[int]], logprobs: list[list[float]] | None
    ) -> None:
        """Hand out what was generated; a request that was cancelled meanwhile is passed over."""
        for number, request in enumerate(batch):
            if not request.answer.done():
                room = request.max_new_tokens
                # Numbers of their own: a generator may use its arrays again.
                values = None if logprobs is None else list(map(float, logprobs[number][:room]))
                request.answer.set_result((list(map(int, ids[number][:room])), values))
