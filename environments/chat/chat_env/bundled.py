"""The bundled tasks, made by rule.

Kinds: ``sum`` (add two numbers), ``choice`` (find the word of a kind among eight), ``format``
(answer in a given form), ``repeat`` (say the n-th of eight words), ``guess`` (find a number by
higher and lower), ``shop`` (ask a tool for prices, and add them up) and ``order`` (ask a customer
for three facts and write them down). Every fifth task of a kind is in the split ``test``, the rest
in ``train``.

No answer that ignores the question earns anything to speak of: a message gets credit for its form
only where its content is right, and no right answer is that of many tasks. No id tells an answer
that the prompt does not.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

from chat_env.scorers import scorer_from
from chat_env.tasks import Task, Tool

__all__ = ["FACTS", "HIGHEST", "KINDS", "ORDINALS", "SETS", "builtin_tasks"]

OPTIONS: Final = 8
"""Words that a task of the kinds ``choice`` and ``repeat`` has to choose from."""


@functools.cache
def builtin_tasks() -> tuple[Task, ...]:
    """Return the tasks that come with the package."""
    return tuple(task for make in KINDS.values() for task in make())


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
            partner=_again("That is not it. Answer with the number alone."),
            answer=str(a + b),
        )


def _half_for_form(right: Any, form: Any) -> Any:
    """Half of the score for the content, the other half for the content in the form."""
    return {"sum": [[1, right], [1, {"gate": [right, form]}]]}


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
SETS: Final = {
    "fruit": _FRUITS,
    "vegetable": _VEGETABLES,
    "animal": _ANIMALS,
    "metal": _METALS,
}
_ARTICLES: Final = {
    "fruit": "a fruit",
    "vegetable": "a vegetable",
    "animal": "an animal",
    "metal": "a metal",
}


def _choices() -> Iterator[Task]:
    """One word of a kind among others, at each place equally often."""
    words = {name: text.split() for name, text in SETS.items()}
    count = Counter(word for each in words.values() for word in each)
    only = {name: [word for word in each if count[word] == 1] for name, each in words.items()}
    names = [*only]
    for number in range(64):
        rng = random.Random(f"choice/{number}")
        wanted = names[number % len(names)]
        others = [word for name, each in only.items() if name != wanted for word in each]
        options = rng.sample(others, OPTIONS - 1)
        yes = rng.choice(only[wanted])
        options.insert(number % OPTIONS, yes)
        yield Task(
            f"choice-{number}",
            "choice",
            _split(number // 2),
            f"Which of these is {_ARTICLES[wanted]}: {', '.join(options)}? Answer with one word.",
            scorer_from({"exact": yes}),
            max_turns=1,
            answer=yes,
        )


_PLANETS: Final = "mercury venus earth mars jupiter saturn uranus neptune"
_HELLO: Final = r"\b(HELLO|HI|HEY|GREETINGS|WELCOME|GOOD (MORNING|DAY|AFTERNOON|EVENING))\b"
_BYE: Final = r"(?i)\b(good\W?bye|good bye|bye|farewell|see you|so long|take care|good night)\b"


FORMS: Final = (
    "apple, pear, plum",
    "cat, dog, owl, bear",
    '{"name": "Ada", "age": 36}',
    "Rain falls from dark clouds.",
    '{"city": "Lima", "country": "Peru"}',
    "HELLO",
    "earth",
    "8",
    "Goodbye friend",
    "red, blue",
    "carrot, leek, onion",
    "[1, 2, 3]",
    "SPRING",
    "c-a-t",
    "iron, gold, tin",
    "2024-03-05",
    "yes, yes, yes",
    "How old are you?",
    '{"ready": true}',
    "0.5",
)
"""Answers to the tasks of the kind ``format``, in their order."""


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
    for number, ((prompt, spec), answer) in enumerate(zip(wanted, FORMS, strict=True)):
        yield Task(
            f"format-{number}",
            "format",
            _split(number),
            prompt,
            scorer_from(spec),
            partner=_again("Please keep to the form that was asked for."),
            answer=answer,
        )


_WORDS: Final = (
    *("lantern", "harbour", "velvet", "pepper", "meadow", "anchor", "ribbon", "copper"),
    *("window", "garden", "marble", "basket", "thistle", "saddle", "orchid"),
    *("candle", "bridge", "feather", "lemon", "pebble", "rocket", "silver", "timber"),
    *("valley", "walnut", "zephyr", "acorn", "button", "cinder", "dolphin"),
)
ORDINALS: Final = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def _repeats() -> Iterator[Task]:
    for number in range(64):
        rng = random.Random(f"repeat/{number}")
        words = rng.sample(_WORDS, OPTIONS)
        place = number % OPTIONS
        yield Task(
            f"repeat-{number}",
            "repeat",
            _split(number // 2),
            f"Say the {ORDINALS[place]} of these words and nothing else: {', '.join(words)}.",
            scorer_from({"exact": words[place]}),
            max_turns=1,
            answer=words[place],
        )


HIGHEST: Final = 63
"""Numbers of the kind ``guess`` are from 1 to this."""


def _guesses() -> Iterator[Task]:
    secrets = random.Random("guess").sample(range(1, HIGHEST + 1), HIGHEST)
    for number, secret in enumerate(secrets):
        yield Task(
            f"guess-{number}",
            "guess",
            _split(number),
            f"I think of a whole number from 1 to {HIGHEST}. Guess it; I say higher or lower.",
            scorer_from({"exact": str(secret)}),
            partner=functools.partial(_higher_or_lower, secret),
            max_turns=6,
            answer=str(secret),
        )


def _higher_or_lower(secret: int, text: str, turn: int) -> str:
    found = re.search(r"\d{1,9}", text)
    if found is None:
        return "Say a number."
    guess = int(found[0])
    if guess == secret:
        return "Say the number alone."
    return "Higher." if guess < secret else "Lower."


_WARES: Final = ("plum", "pear", "candle", "basket", "ribbon", "kettle", "pillow", "ladder", "lamp")


def _shops() -> Iterator[Task]:
    """Two prices, from a tool; their multiples added."""
    for number in range(60):
        rng = random.Random(f"shop/{number}")
        prices = {ware: rng.randint(11, 99) for ware in _WARES}
        (one, other), (n, m) = rng.sample(_WARES, 2), (rng.randint(2, 5), rng.randint(2, 5))
        total = n * prices[one] + m * prices[other]
        yield Task(
            f"shop-{number}",
            "shop",
            _split(number),
            f"What do {n} {_plural(one)} and {m} {_plural(other)} cost together? Ask the tool for"
            " the price of one of each. Then answer with the number alone.",
            scorer_from(_half_for_form({"number": total}, {"format": "number"})),
            partner=_again("That is not what they cost."),
            max_turns=4,
            tools=(
                Tool(
                    "price",
                    "The price of one piece of a ware.",
                    {
                        "type": "object",
                        "properties": {"ware": {"type": "string", "enum": [*_WARES]}},
                        "required": ["ware"],
                    },
                    functools.partial(_price, prices),
                ),
            ),
            answer=str(total),
        )


def _price(prices: dict[str, int], ware: Any) -> str:
    return str(prices.get(str(ware).strip().casefold(), "We do not have that."))


FACTS: Final = {
    "size": ("size", tuple(map(str, range(36, 46)))),
    "colour": ("colo", ("amber", "crimson", "indigo", "olive", "scarlet", "teal", "violet")),
    "city": ("city", ("Bergen", "Cusco", "Dakar", "Hanoi", "Lima", "Oslo", "Quito", "Turin")),
}
"""The facts of a customer by name: the letters that a question has, and the answers."""


def _orders() -> Iterator[Task]:
    for number in range(60):
        rng = random.Random(f"order/{number}")
        facts = {name: rng.choice(values) for name, (_, values) in FACTS.items()}
        yield Task(
            f"order-{number}",
            "order",
            _split(number),
            "I want to order shoes. Ask me for my size, the colour and the city, one at a time, in"
            " at most ten words each. Then write the order as a JSON object with the keys size,"
            " colour and city; each value is a text.",
            scorer_from(
                {
                    "gate": [
                        {"every": {"length": {"max_words": 10}}},
                        {"format": "json", "value": facts},
                    ]
                }
            ),
            partner=functools.partial(_customer, facts),
            max_turns=6,
            answer=json.dumps(facts),
        )


def _customer(facts: dict[str, str], text: str, turn: int) -> str:
    """The one fact that a message asks for."""
    asked = [name for name, (letters, _) in FACTS.items() if letters in text.casefold()]
    if text.lstrip().startswith("{"):
        return "That is not my order."
    if len(asked) != 1:
        return "One question at a time, please."
    return f"{facts[asked[0]]}."


def _again(text: str) -> Callable[[str, int], str]:
    return lambda said, turn: text


KINDS: Final[dict[str, Callable[[], Iterator[Task]]]] = {
    "sum": _sums,
    "choice": _choices,
    "format": _formats,
    "repeat": _repeats,
    "guess": _guesses,
    "shop": _shops,
    "order": _orders,
}
"""The kinds, from the easiest to the hardest for a small model."""
