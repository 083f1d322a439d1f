"""A model of transformers in this process, sampled token by token.

Rules:

- Nothing that was sampled is tokenized again. A prompt is made of the template's text around the
  replies, tokenized, and of the replies' own ids, as they were sampled; the message of a reply
  carries them. A conversation therefore only grows: its next prompt begins with the ids of the
  last one and its reply.
- A text of the template is tokenized once, and kept: its ids do not depend on what is beside it.
- Log probabilities are those of the distribution that was sampled from: of the logits divided by
  the temperature, without further truncation. At temperature 0 they are those of temperature 1.
- Calls that come together are one batch, in a thread of its own. Each call has its own generator,
  so that its seed does not depend on its company. The ids that all prompts of a batch begin with
  are computed once.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import queue
import re
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from openenv_async.errors import InvalidOption, ResponderFailed, error_text
from openenv_async.responders.base import Message, Reply, Usage, cut

__all__ = ["SampledMessage", "TransformersResponder"]

_OLD_CACHE: Final = "past_key_values"
_MAX_TOKENS: Final = 256
_MOST_TEXTS: Final = 4096
"""Texts whose ids are kept."""


class SampledMessage(dict[str, Any]):
    """An assistant's message that knows the ids it was sampled as.

    Attributes:
        completion_ids: the ids, with the one that ended it, if one did.
    """

    completion_ids: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class _SampledReply(Reply):
    """A reply whose message carries its ids to the next prompt."""

    @property
    def message(self) -> dict[str, Any]:
        message = SampledMessage(role="assistant", content=self.text)
        message.completion_ids = self.completion_ids
        return message


@dataclass(slots=True, eq=False)
class _Request:
    messages: list[Message]
    max_tokens: int
    temperature: float
    seed: int | None
    stop: Sequence[str]
    future: Future[Reply] = field(default_factory=Future)
    begun: float = field(default_factory=time.perf_counter)


@dataclass(slots=True, eq=False)
class _Row:
    """One call of a batch, and what is sampled for it."""

    request: _Request
    prompt: list[int]
    generator: Any
    waited: float
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str | None = None


class _Worker:
    """A thread that samples, and how to talk to it."""

    def __init__(self) -> None:
        self.requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self.ended: Future[None] = Future()


class TransformersResponder:
    """A causal language model of transformers, in this process.

    It offers no tools: a ``LanguagePolicy`` has the model write its action as JSON. Needs torch and
    transformers; the model is loaded with the first reply.

    Args:
        model: a folder, a GGUF file (needs ``gguf`` as well), or a model that is loaded, on its
            device and in its precision.
        tokenizer: has a chat template; by default that of the folder or file.
        dtype: of the weights of a folder or file. In ``float32`` a forward pass gives the same log
            probabilities within 1e-3; half precisions do not.
        max_tokens: of a reply, where the call does not say.
        temperature: of sampling, where the call does not say.
        batch_size: calls that are sampled together, at most.
        batch_wait: seconds that the first of a batch waits for others.
        threads: of torch; by default its own choice.
        weight_version: told with each reply; ``updating`` changes it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        dtype: str = "float32",
        max_tokens: int = _MAX_TOKENS,
        temperature: float = 1.0,
        batch_size: int = 16,
        batch_wait: float = 0.005,
        threads: int | None = None,
        weight_version: int | str | None = None,
    ) -> None:
        if isinstance(model, str | Path):
            model = Path(model)
            if not model.exists():
                raise InvalidOption(f"there is no model at {str(model)!r}", option="model")
        elif tokenizer is None:
            raise TypeError("a model that is loaded needs its tokenizer as well")
        if batch_size < 1 or max_tokens < 1:
            raise ValueError("batch_size and max_tokens must be at least 1")
        self.weight_version = weight_version
        self._model = model
        self._tokenizer = tokenizer
        self._dtype = dtype
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._batch_size = batch_size
        self._batch_wait = batch_wait
        self._threads = threads
        self._loaded: tuple[Any, Any] | None = None
        self._worker: _Worker | None = None
        self._loading = threading.Lock()
        self._weights = threading.Lock()
        self._ids_of = lru_cache(_MOST_TEXTS)(self._tokenized)

    async def respond(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] | None = None,
    ) -> Reply:
        """Return the model's next message; see ``Responder.respond``.

        A reply that has begun is sampled to its end also when the caller is cancelled.
        """
        request = _Request(
            list(messages),
            self._max_tokens if max_tokens is None else max_tokens,
            self._temperature if temperature is None else temperature,
            seed,
            tuple(stop or ()),
        )
        if self._worker is None:
            self._worker = _Worker()
            threading.Thread(
                target=self._work, args=(self._worker,), name="openenv-transformers", daemon=True
            ).start()
        self._worker.requests.put(request)
        return await asyncio.wrap_future(request.future)

    async def check(self) -> None:
        """Load the model, in a thread, before a run relies on it.

        Raises:
            InvalidOption: a package is missing, or it is not a model.
        """
        loaded: Future[Any] = Future()

        def load() -> None:
            try:
                loaded.set_result(self.load())
            except Exception as exc:  # handed to the caller
                loaded.set_exception(exc)

        threading.Thread(target=load, name="openenv-transformers-load", daemon=True).start()
        await asyncio.wrap_future(loaded)

    async def aclose(self) -> None:
        """End its thread, after the batch under way; the model stays loaded. Idempotent."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.requests.put(None)
            await asyncio.wrap_future(worker.ended)

    @contextlib.contextmanager
    def updating(self, version: int | str | None = None) -> Iterator[None]:
        """Keep the model from being sampled while its weights change, and set their version."""
        with self._weights:
            yield
            if version is not None:
                self.weight_version = version

    def load(self) -> tuple[Any, Any]:
        """Return tokenizer and model, loaded now if they were not.

        Raises:
            InvalidOption: a package is missing, or it is not a model.
        """
        if self._loaded is not None:
            return self._loaded
        with self._loading:
            if self._loaded is None:
                try:
                    self._loaded = self._load()
                except ModuleNotFoundError as exc:
                    raise InvalidOption(
                        f"a model in this process needs {exc.name}: pip install torch"
                        " 'openenv-async[transformers]'",
                        option="model",
                    ) from exc
                except (OSError, ValueError) as exc:
                    raise InvalidOption(
                        f"{str(self._model)!r} is not a model: {error_text(exc)}", option="model"
                    ) from exc
        return self._loaded

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a prompt: of the template's text, with sampled replies as they were."""
        self.load()
        mark = uuid.uuid4().hex
        sampled: list[Sequence[int]] = []
        shown: list[dict[str, Any]] = []
        for message in messages:
            ids = getattr(message, "completion_ids", None)
            if ids is None:
                shown.append(_shown(message))
            else:
                shown.append({"role": "assistant", "content": f"{mark}{len(sampled)}."})
                sampled.append(ids)
        tokenizer, _ = self.load()
        text = tokenizer.apply_chat_template(shown, add_generation_prompt=True, tokenize=False)
        made: list[int] = []
        parts = re.split(mark + r"(\d+)\.", text)
        for number, part in enumerate(parts):
            if number % 2:
                made.extend(sampled[int(part)])
            elif part:
                made.extend(
                    self._ids_of(self._behind(made, part)) if number else self._ids_of(part)
                )
        return made

    def _behind(self, made: list[int], text: str) -> str:
        """Return what follows a reply without the end that was sampled with it."""
        tokenizer, _ = self.load()
        for end in self._ends():
            token = tokenizer.convert_ids_to_tokens(end)
            if made and made[-1] == end and text.startswith(token):
                return text[len(token) :]
        return text

    def _tokenized(self, text: str) -> tuple[int, ...]:
        tokenizer, _ = self.load()
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    def _ends(self) -> tuple[int, ...]:
        """Return the ids that end a reply."""
        tokenizer, model = self.load()
        ends = {tokenizer.eos_token_id}
        configured = getattr(model.generation_config, "eos_token_id", None)
        ends.update(configured if isinstance(configured, list) else [configured])
        return tuple(end for end in ends if end is not None)

    def _load(self) -> tuple[Any, Any]:
        if not isinstance(self._model, Path):
            return self._tokenizer, self._model
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if self._threads is not None:
            torch.set_num_threads(self._threads)
        path = self._model
        file = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
        folder = path.parent if file else path
        tokenizer: Any = self._tokenizer or AutoTokenizer.from_pretrained(folder, **file)
        if not tokenizer.chat_template:
            raise InvalidOption(
                f"the tokenizer of {str(path)!r} has no chat template", option="model"
            )
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, self._dtype), **file
        )
        return tokenizer, model.eval()

    # -- in the thread ---------------------------------------------------------------------------

    def _work(self, worker: _Worker) -> None:
        """Sample batches until there is nothing more to come."""
        try:
            self._batches(worker.requests)
        finally:
            worker.ended.set_result(None)

    def _batches(self, requests: queue.SimpleQueue[_Request | None]) -> None:
        while (first := requests.get()) is not None:
            batch, ended = [first], False
            until = time.perf_counter() + self._batch_wait
            while len(batch) < self._batch_size and not ended:
                try:
                    more = requests.get(timeout=max(0.0, until - time.perf_counter()))
                except queue.Empty:
                    break
                if more is None:
                    ended = True
                else:
                    batch.append(more)
            self._answer([each for each in batch if each.future.set_running_or_notify_cancel()])
            if ended:
                return

    def _answer(self, batch: list[_Request]) -> None:
        """Sample a batch; what goes wrong is the error of each."""
        if not batch:
            return
        try:
            with self._weights:
                rows = [self._row(request) for request in batch]
                self._sample(rows)
                version = self.weight_version
            replies = [self._reply(row, version) for row in rows]
        except InvalidOption as exc:
            for request in batch:
                request.future.set_exception(exc)
        except Exception as exc:  # of torch, the template or the tokenizer
            told = error_text(exc)
            for request in batch:
                error = ResponderFailed(
                    f"the model in this process failed: {type(exc).__name__}: {told}",
                    retryable=False,
                )
                error.__cause__ = exc
                request.future.set_exception(error)
        else:
            for request, reply in zip(batch, replies, strict=True):
                request.future.set_result(reply)

    def _row(self, request: _Request) -> _Row:
        import torch

        waited = time.perf_counter() - request.begun
        _, model = self.load()
        generator = torch.Generator(device=model.device)
        if request.seed is None:
            generator.seed()
        else:
            generator.manual_seed(request.seed)
        return _Row(request, self.prompt_ids(request.messages), generator, waited)

    def _sample(self, rows: list[_Row]) -> None:
        """Sample every row to its end."""
        import torch
        from transformers import DynamicCache

        tokenizer, model = self.load()
        ends = set(self._ends())
        shared = _shared(rows)
        longest = max(len(row.prompt) for row in rows)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        device = model.device
        # A row is what all share, then padding, then its own part.
        parts = [(longest - len(row.prompt), row.prompt[shared:]) for row in rows]
        ids = torch.tensor([[pad] * gap + own for gap, own in parts], device=device)
        mask = torch.tensor(
            [[1] * shared + [0] * gap + [1] * len(own) for gap, own in parts], device=device
        )
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
        cache: Any = DynamicCache(config=model.config)
        # Earlier releases of transformers name it past_key_values.
        name = "cache" if "cache" in inspect.signature(model.forward).parameters else _OLD_CACHE
        with torch.inference_mode():
            if shared:
                model(
                    input_ids=torch.tensor([rows[0].prompt[:shared]], device=device),
                    **{name: cache},
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache.batch_repeat_interleave(len(rows))
            while True:
                out = model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    **{name: cache},
                    use_cache=True,
                    logits_to_keep=1,
                )
                logits = out.logits[:, -1].float()
                taken = [
                    self._take(row, logits[number], ends) if row.finish is None else pad
                    for number, row in enumerate(rows)
                ]
                if all(row.finish is not None for row in rows):
                    return
                ids = torch.tensor(taken, device=device)[:, None]
                mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=-1)
                positions = positions[:, -1:] + 1

    def _take(self, row: _Row, logits: Any, ends: set[int]) -> int:
        """Sample the next token of a row."""
        import torch

        request = row.request
        temperature = request.temperature
        logprobs = (logits / temperature if temperature > 0 else logits).log_softmax(-1)
        if temperature > 0:
            drawn = int(torch.multinomial(logprobs.exp(), 1, generator=row.generator))
        else:
            drawn = int(logprobs.argmax())
        row.ids.append(drawn)
        row.logprobs.append(float(logprobs[drawn]))
        stop = request.stop
        if drawn in ends or (stop and any(mark in self._text(row.ids) for mark in stop)):
            row.finish = "stop"
        elif len(row.ids) >= request.max_tokens:
            row.finish = "length"
        return drawn

    def _text(self, ids: list[int]) -> str:
        tokenizer, _ = self.load()
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    def _reply(self, row: _Row, version: int | str | None) -> Reply:
        return _SampledReply(
            text=cut(self._text(row.ids), row.request.stop),
            finish_reason=row.finish or "stop",
            usage=Usage(len(row.prompt), len(row.ids)),
            model=self._name(),
            prompt_ids=row.prompt,
            completion_ids=row.ids,
            logprobs=row.logprobs,
            weight_version=version,
            queue_seconds=row.waited,
        )

    def _name(self) -> str:
        if isinstance(self._model, Path):
            return self._model.name
        return str(getattr(self._model.config, "name_or_path", "") or type(self._model).__name__)


def _shared(rows: Sequence[_Row]) -> int:
    """Return how many ids the prompts of a batch all begin with, short of a whole prompt."""
    if len(rows) == 1:
        return 0
    prompts = [row.prompt for row in rows]
    least, most = min(prompts), max(prompts)  # what these two share, all between them share
    alike = next((n for n, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), None)
    return min(len(min(prompts, key=len)) - 1, len(least) if alike is None else alike)


def _shown(message: Message) -> dict[str, Any]:
    """Return a message as templates take it: those of text models know no content blocks."""
    content = message.get("content")
    if isinstance(content, str | None):
        return {**message, "content": content or ""}
    texts = [block["text"] for block in content if block.get("type") == "text"]
    return {**message, "content": "\n".join(texts)}
