"""Subjects of conversations: a small set of tasks, and tasks from files or reset options.

Kinds: ``sum`` (add two numbers), ``choice`` (pick one of two words), ``format`` (answer in a
given form), ``repeat`` (say a word back) and ``guess`` (find a number by questions, the one that
takes several turns). Every fifth task of a kind is in the split ``test``, the rest in ``train``.

No answer that ignores the question earns anything to speak of: a message gets credit for its form
only where its content is right, and no right answer is that of many tasks. A constant one scores
at chance, 1 / the number of different answers.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chat_env.scorers import Scorer, scorer_from
from openenv_async.errors import InvalidOption

__all__ = ["SPLITS", "Task", "builtin_tasks", "load_tasks", "task_from"]

SPLITS: Final = ("train", "test")
_FIELDS: Final = ("id", "kind", "split", "prompt", "scorer", "replies", "system", "max_turns")


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        id, kind, split: which one.
        prompt: the partner's first message.
        scorer: of each message of the agent; at 1 the task is solved.
        partner: what the partner says to a message that does not solve it.
        system: its own system message.
        max_turns: its own limit.
    """

    id: str
    kind: str
    split: str
    prompt: str
    scorer: Scorer = field(repr=False)
    partner: Callable[[str, int], str] | None = field(default=None, repr=False)
    system: str | None = None
    max_turns: int | None = None


def task_from(spec: Mapping[str, Any], *, trusted: bool = True) -> Task:
    """The task that plain data describes.

    ``prompt`` and ``scorer`` are needed; ``id``, ``kind``, ``split``, ``system``, ``max_turns``
    and ``replies`` (what the partner says, a list in order of turns) are not.

    Raises:
        InvalidOption: it describes none.
    """
    if unknown := sorted(set(spec) - set(_FIELDS)):
        raise InvalidOption(
            f"a task has no {unknown[0]!r}; known: {', '.join(_FIELDS)}", option="task"
        )
    texts = {
        name: spec.get(name, default)
        for name, default in (("prompt", None), ("id", "custom"), ("kind", "custom"))
    }
    if not all(isinstance(text, str) and text for text in texts.values()):
        raise InvalidOption("a task needs a prompt, a text", option="task")
    split, turns, system = spec.get("split", "train"), spec.get("max_turns"), spec.get("system")
    if split not in SPLITS:
        raise InvalidOption(f"there is no split {split!r}: train or test", option="task")
    if turns is not None and (not isinstance(turns, int) or turns < 1):
        raise InvalidOption("max_turns of a task must be at least 1", option="task")
    if system is not None and not isinstance(system, str):
        raise InvalidOption("system of a task must be a text", option="task")
    replies = spec.get("replies")
    partner = None
    if replies is not None:
        if not (isinstance(replies, list) and replies and all(isinstance(r, str) for r in replies)):
            raise InvalidOption("replies of a task must be a list of texts", option="task")
        partner = _in_order(replies)
    scorer = scorer_from(spec.get("scorer"), trusted=trusted)
    return Task(texts["id"], texts["kind"], split, texts["prompt"], scorer, partner, system, turns)


def _in_order(replies: Sequence[str]) -> Callable[[str, int], str]:
    return lambda text, turn: replies[min(turn, len(replies)) - 1]


def load_tasks(path: str) -> tuple[Task, ...]:
    """The tasks of a JSON Lines file, one a line.

    Raises:
        InvalidOption: a line is none, or there is no such file.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as exc:
        raise InvalidOption(f"cannot read the tasks: {exc}", option="tasks") from exc
    tasks = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                tasks.append(task_from(json.loads(line)))
            except (ValueError, TypeError) as exc:  # InvalidOption is a ValueError
                raise InvalidOption(f"line {number} of {path}: {exc}", option="tasks") from exc
    if not tasks:
        raise InvalidOption(f"there is no task in {path}", option="tasks")
    return tuple(tasks)


@functools.cache
def builtin_tasks() -> tuple[Task, ...]:
    """The tasks that come with the package."""
    kinds = (_sums(), _choices(), _formats(), _repeats(), _guesses())
    return tuple(task for kind in kinds for task in kind)


def _split(number: int) -> str:
    return "test" if number % 5 == 4 else "train"


def _sums() -> Iterator[Task]:
    """Two numbers from 2 to 12: two tasks for each sum, one for the least and the greatest."""
    pairs = []
    for total in range(4, 25):
        low, high = max(2, total - 12), min(12, total - 2)
        first = low if high - low < 2 else low + max(1, (high - low) // 3)
        pairs += [(a, total - a) for a in dict.fromkeys((first, high))]
    for number, (a, b) in enumerate(pairs):
        # The last number of the message counts, so that a row of them does not pass.
        right = {"regex": rf"(?<![\d.,-]){a + b}(?![.,]?\d)\D*$"}
        yield Task(
            f"sum-{a}-{b}",
            "sum",
            _split(number),
            f"What is {a} plus {b}? Answer with the number alone.",
            scorer_from(_half_for_form(right, {"format": "number"})),
            _again("That is not it. Answer with the number alone."),
        )


def _half_for_form(right: Any, form: Any) -> Any:
    """Half of the score for the content, the other half for the content in the form."""
    return {"sum": [[1, right], [1, {"gate": [right, form]}]]}


_PAIRS: Final = (
    ("larger", "whale", "mouse"),
    ("warmer", "fire", "snow"),
    ("faster", "rocket", "snail"),
    ("heavier", "anvil", "feather"),
    ("older", "grandmother", "baby"),
    ("sweeter", "honey", "lemon"),
    ("louder", "thunder", "whisper"),
    ("darker", "midnight", "noon"),
    ("softer", "pillow", "brick"),
    ("taller", "tower", "bench"),
    ("wetter", "ocean", "desert"),
    ("sharper", "razor", "spoon"),
    ("longer", "century", "minute"),
    ("deeper", "canyon", "puddle"),
    ("brighter", "sun", "candle"),
    ("colder", "glacier", "oven"),
    ("slower", "tortoise", "cheetah"),
    ("lighter", "balloon", "hammer"),
    ("younger", "kitten", "grandfather"),
    ("quieter", "library", "concert"),
    ("drier", "sand", "swamp"),
    ("harder", "diamond", "butter"),
    ("smaller", "ant", "elephant"),
    ("shorter", "minute", "year"),
    ("rounder", "ball", "box"),
    ("saltier", "seawater", "milk"),
    ("higher", "mountain", "valley"),
    ("stickier", "glue", "oil"),
    ("thicker", "dictionary", "leaflet"),
    ("bluer", "sky", "grass"),
)


def _choices() -> Iterator[Task]:
    for number, (quality, yes, no) in enumerate(_PAIRS):
        first, second = (yes, no) if number % 2 else (no, yes)
        yield Task(
            f"choice-{yes}",
            "choice",
            _split(number),
            f"Which one is {quality}: {first} or {second}? Answer with one word.",
            scorer_from({"exact": yes}),
            _again(f"One word, please: {first} or {second}?"),
        )


_FRUITS: Final = """
apple apricot avocado banana blackberry blackcurrant blueberry cherry clementine coconut cranberry
date dragonfruit elderberry fig gooseberry grape grapefruit guava kiwi lemon lime lychee mandarin
mango melon nectarine olive orange papaya passionfruit peach pear persimmon pineapple plum
pomegranate raspberry redcurrant strawberry tangerine watermelon
"""
_VEGETABLES: Final = """
artichoke asparagus aubergine beet beetroot broccoli cabbage carrot cauliflower celery chard
courgette cucumber eggplant fennel garlic kale leek lettuce okra onion parsnip pea potato pumpkin
radish spinach squash turnip yam zucchini
"""
_ANIMALS: Final = """
ant antelope ape badger bat bear beaver bee bird bison buffalo butterfly camel cat cheetah chicken
cow crocodile crow deer dog dolphin donkey duck eagle elephant elk fish fox frog giraffe goat goose
gorilla hamster hare hawk hedgehog hen hippo hippopotamus horse hyena jaguar kangaroo koala lamb
leopard lion lizard llama lynx mole monkey moose mouse octopus ostrich otter owl ox panda panther
parrot penguin pig pigeon pony rabbit raccoon rat raven reindeer rhino rhinoceros seal shark sheep
snake sparrow spider squirrel swan tiger tortoise turkey turtle walrus whale wolf wombat zebra
"""
_COLOURS: Final = """
amber aqua beige black blue brown crimson cyan gold gray green grey indigo ivory khaki magenta
maroon mauve navy ochre olive orange pink purple red rose scarlet silver teal turquoise violet white
yellow
"""
_METALS: Final = """
aluminium aluminum brass bronze chromium cobalt copper gold iron lead lithium magnesium mercury
nickel platinum silver steel tin titanium tungsten uranium zinc
"""
_PLANETS: Final = "mercury venus earth mars jupiter saturn uranus neptune"
_HELLO: Final = r"\b(HELLO|HI|HEY|GREETINGS|WELCOME|GOOD (MORNING|DAY|AFTERNOON|EVENING))\b"
_BYE: Final = r"(?i)\b(good\W?bye|good bye|bye|farewell|see you|so long|take care|good night)\b"


def _some(words: str, count: int) -> dict[str, Any]:
    """A list of so many of the words, in the singular or the plural."""
    given = words.split()
    return {"items": [*given, *(_plural(word) for word in given)], "count": count}


def _plural(word: str) -> str:
    if word.endswith(("s", "x", "sh", "ch", "o")):
        return f"{word}es"
    return f"{word[:-1]}ies" if re.search("[^aeiou]y$", word) else f"{word}s"


def _formats() -> Iterator[Task]:
    short = {"length": {"max_words": 8}}
    wanted: tuple[tuple[str, Any], ...] = (
        ("Name three fruits, separated by commas.", _some(_FRUITS, 3)),
        ("Name four animals, separated by commas.", _some(_ANIMALS, 4)),
        ('Write a JSON object with the keys "name" and "age" for Ada, who is 36.',
         {"format": "json", "value": {"name": "Ada", "age": 36}}),
        ("Describe rain in one sentence of at most ten words.",
         {"gate": [{"format": "sentence"}, {"length": {"max_words": 10}},
                   {"regex": r"(?i)\b(rain|raindrops?|drops|water|clouds?|wet)\b"}]}),
        ('Write a JSON object with the keys "city" and "country" for Lima in Peru.',
         {"format": "json", "value": {"city": "Lima", "country": "Peru"}}),
        ("Shout a greeting: capital letters only.",
         {"gate": [{"format": "upper"}, {"length": {"max_words": 6}}, {"regex": _HELLO}]}),
        ("Name one planet in lower case, as a single word.",
         {"exact": _PLANETS.split(), "strict": True}),
        ("Answer with a whole number: how many legs do two dogs have?",
         _half_for_form({"regex": r"(?<![\d.,-])8(?![.,]?\d)\D*$"}, {"format": "number"})),
        ("Say goodbye in exactly two words.",
         {"gate": [{"length": {"min_words": 2, "max_words": 2}}, {"regex": _BYE}]}),
        ("Name two colours, separated by a comma.", _some(_COLOURS, 2)),
        ("Name three vegetables, separated by commas.", _some(_VEGETABLES, 3)),
        ("Write a JSON list of the numbers 1, 2 and 3.", {"format": "json", "value": [1, 2, 3]}),
        ("Name one season in capital letters, as a single word.",
         {"exact": ["SPRING", "SUMMER", "AUTUMN", "FALL", "WINTER"], "strict": True}),
        ("Spell the word cat with hyphens between its letters.", {"exact": "c-a-t"}),
        ("Name three metals, separated by commas.", _some(_METALS, 3)),
        ("Write the fifth of March 2024 as YYYY-MM-DD.", {"exact": "2024-03-05"}),
        ("Write the word yes three times, separated by commas.", {"exact": "yes, yes, yes"}),
        ("Ask how old somebody is: one question of at most eight words.",
         {"gate": [{"regex": r"[A-Z][^.!?\n]*\b(old|age)\b[^.!?\n]*\?", "full": True}, short]}),
        ('Write a JSON object with the key "ready" and the value true.',
         {"format": "json", "value": {"ready": True}}),
        ("Write one half as a decimal number.", {"exact": ["0.5", ".5", "0.50"], "strict": True}),
    )  # fmt: skip
    for number, (prompt, spec) in enumerate(wanted):
        yield Task(
            f"format-{number}",
            "format",
            _split(number),
            prompt,
            scorer_from(spec),
            _again("Please keep to the form that was asked for."),
        )


_WORDS: Final = (
    *("lantern", "harbour", "velvet", "pepper", "meadow", "anchor", "ribbon", "copper"),
    *("window", "garden", "marble", "basket", "thistle", "saddle", "orchid"),
    *("candle", "bridge", "feather", "lemon", "pebble", "rocket", "silver", "timber"),
    *("valley", "walnut", "zephyr", "acorn", "button", "cinder", "dolphin"),
)


def _repeats() -> Iterator[Task]:
    for number, word in enumerate(_WORDS):
        yield Task(
            f"repeat-{word}",
            "repeat",
            _split(number),
            f"Say this word and nothing else: {word}",
            scorer_from({"exact": word}),
            _again(f"Only the word: {word}"),
        )


def _guesses() -> Iterator[Task]:
    for secret in range(1, 16):
        yield Task(
            f"guess-{secret}",
            "guess",
            _split(secret - 1),
            "I think of a whole number from 1 to 15. Guess it; I say higher or lower.",
            scorer_from({"exact": str(secret)}),
            functools.partial(_higher_or_lower, secret),
            max_turns=5,
        )


def _higher_or_lower(secret: int, text: str, turn: int) -> str:
    found = re.search(r"\d{1,9}", text)
    if found is None:
        return "Say a number."
    guess = int(found[0])
    if guess == secret:
        return "Say the number alone."
    return "Higher." if guess < secret else "Lower."


def _again(text: str) -> Callable[[str, int], str]:
    return lambda said, turn: text
