"""The generated tasks: each template has a second solution here, written another way."""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
from collections import Counter, deque
from typing import Any

import pytest
from coding_env.sandbox.inside.canonical import canonical
from coding_env.tasks.generated import GENERATED, source_of
from coding_env.tasks.model import constant_share
from coding_env.tasks.templates import TEMPLATES, Template, Variant


def keep_multiples(numbers: Any, k: int) -> Any:
    return [round(n / k) for n in numbers if n == k * round(n / k)]


def shift_letters(text: str, k: int) -> str:
    low = "abcdefghijklmnopqrstuvwxyz"
    return text.translate(str.maketrans(low, low[k:] + low[:k]))


def every_nth(values: Any, k: int) -> Any:
    found = [value for place, value in enumerate(values, 1) if not place % k]
    if values:
        found.append(values[len(values) - 1])
    return found


def digit_powers(number: int, k: int) -> int:
    total, number = 0, abs(number)
    while number:
        number, digit = divmod(number, 10)
        total += digit**k
    return total


def swap_letters(text: str, a: str, b: str) -> str:
    return "".join({a: b, b: a}.get(letter, letter) for letter in reversed(text))


def distant_differences(numbers: Any, k: int) -> Any:
    return [numbers[i + k] - numbers[i] for i in range(max(0, len(numbers) - k))]


def polynomial(x: int, a: int, b: int, c: int) -> int:
    value = (a * x + b) * x + c
    return -value + 1 if value < 0 else value


def stretch(text: str, k: int) -> str:
    times = itertools.cycle(range(1, k + 1))
    return "".join(letter for letter in text for _ in range(next(times)))


def rotate(values: Any, k: int) -> Any:
    ring = deque(values)
    ring.rotate(-k)
    return list(ring)


def clamp_all(numbers: Any, low: int, high: int) -> Any:
    return [sorted([low, n, high])[1] for n in numbers if n]


def join_long(text: str, k: int, mark: str) -> str:
    return mark.join([word for word in text.split() if len(word) > k - 1][::-1])


def label_all(numbers: Any, a: int, b: int) -> Any:
    return [
        "high" if n >= b else "low" if n < a else ("even" if n % 2 == 0 else "odd") for n in numbers
    ]


def group_sums(numbers: Any, k: int) -> Any:
    rest, found = list(numbers), []
    while len(rest) >= k:
        found.append(sum(rest.pop(0) for _ in range(k)))
    return [*found, max(rest)] if rest else found


def window_spread(numbers: Any, k: int) -> Any:
    ordered = [sorted(w) for w in zip(*(numbers[i:] for i in range(k)), strict=False)]
    return [w[-1] - w[0] for w in ordered]


def in_base(number: int, k: int) -> str:
    def digits(n: int) -> str:
        return "" if n == 0 else digits(n // k) + "0123456789abcdef"[n % k]

    return ("-" if number < 0 else "") + (digits(abs(number)) or "0")


def top_words(text: str, k: int) -> Any:
    counts = Counter(text.casefold().split())
    ordered = sorted(sorted(counts), key=counts.__getitem__, reverse=True)
    return ordered[:k]


def rails(text: str, k: int) -> str:
    period = 2 * (k - 1)
    line_of = [min(i % period, period - i % period) for i in range(len(text))]
    return "".join(
        t for line in range(k) for t, at in zip(text, line_of, strict=True) if at == line
    )


def by_remainder(numbers: Any, k: int) -> Any:
    return [n for r in range(k) for n in sorted(numbers)[::-1] if n % k == r]


def recurrence(length: int, a: int, b: int, p: int, q: int, m: int) -> Any:
    @functools.cache
    def term(n: int) -> int:
        return (a, b)[n] if n < 2 else (p * term(n - 1) + q * term(n - 2)) % m

    return [term(n) for n in range(length)][max(0, length - 3) :]


def clock(time: str, h: int, k: int) -> str:
    hours, minutes = int(time[:2]), int(time[3:])
    for _ in range(k):
        minutes += 1
        if minutes == 60:
            hours, minutes = (hours + 1) % h, 0
    return str(hours).zfill(2) + ":" + str(minutes).zfill(2)


def long_runs(text: str, k: int) -> Any:
    runs = (match.group() for match in re.finditer(r"(.)\1*", text))
    return [f"{run[0]}{len(run)}" for run in runs if len(run) >= k]


def counting_out(people: int, k: int) -> Any:
    ring, order = deque(range(1, people + 1)), []
    while ring:
        ring.rotate(1 - k)
        order.append(ring.popleft())
    return order[-3:]


def deal(left: Any, right: Any, k: int) -> Any:
    rounds = range(0, max(len(left), len(right)), k)
    return [v for start in rounds for side in (left, right) for v in side[start : start + k]]


def fewest_coins(amount: int, coins: Any) -> int:
    reached, frontier, count = {0}, {0}, 0
    while frontier:
        if amount in reached:
            return count
        frontier = {t + c for t in frontier for c in coins if t + c <= amount} - reached
        reached |= frontier
        count += 1
    return -1


def smooth_total(numbers: Any, k: int) -> int:
    found = []

    def extend(place: int, last: int, total: int) -> None:
        found.append(total)
        for after in range(place + 1, len(numbers)):
            if abs(numbers[after] - last) <= k:
                extend(after, numbers[after], total + numbers[after])

    for place, number in enumerate(numbers):
        extend(place, number, number)
    return max(found)


def best_load(items: Any, capacity: int, k: int) -> int:
    loads = (
        chosen
        for count in range(min(k, len(items)) + 1)
        for chosen in itertools.combinations(items, count)
    )
    fitting = (each for each in loads if sum(weight for weight, _ in each) <= capacity)
    return max(int(sum(value for _, value in each)) for each in fitting)


def fair_parts(numbers: Any, k: int) -> int:
    @functools.cache
    def best(start: int, parts: int) -> int:
        if parts == 1:
            return int(sum(numbers[start:]))
        ends = range(start + 1, len(numbers) - parts + 2)
        return int(min(max(sum(numbers[start:end]), best(end, parts - 1)) for end in ends))

    return best(0, k)


def edit_cost(left: str, right: str, i: int, d: int, r: int) -> int:
    @functools.cache
    def cost(x: int, y: int) -> int:
        if x == len(left):
            return (len(right) - y) * i
        if y == len(right):
            return (len(left) - x) * d
        kept = cost(x + 1, y + 1) + (0 if left[x] == right[y] else r)
        return int(min(kept, cost(x + 1, y) + d, cost(x, y + 1) + i))

    return cost(0, 0)


def automaton(cells: str, steps: int, rule: int) -> str:
    table = f"{rule:08b}"[::-1]
    state = [int(cell) for cell in cells]
    for _ in range(steps):
        size = len(state)
        state = [
            int(table[4 * state[x - 1] + 2 * state[x] + state[(x + 1) % size]]) for x in range(size)
        ]
    return "".join(map(str, state))


def count_ways(grid: Any, moves: str, steps: Any) -> int:
    @functools.cache
    def ways(y: int, x: int) -> int:
        if y >= len(grid) or x >= len(grid[0]) or grid[y][x] == "#":
            return 0
        if (y, x) == (len(grid) - 1, len(grid[0]) - 1):
            return 1
        return sum(ways(y + down, x + right) for down, right in steps)

    return ways(0, 0)


def calculate(formula: str, first: str, last: str, side: str, strong: Any, right: bool) -> int:
    tokens = formula.split()
    if len(tokens) == 1:
        return int(tokens[0])
    places = [i for i in range(1, len(tokens), 2) if tokens[i] in strong[1]]
    if not places:
        places = list(range(1, len(tokens), 2))
    at = places[0] if right else places[-1]  # the sign that is worked out last
    sides = (" ".join(part) for part in (tokens[:at], tokens[at + 1 :]))
    one, other = (calculate(part, first, last, side, strong, right) for part in sides)
    return {"+": one + other, "-": one - other, "*": one * other}[tokens[at]]


SECOND = {
    each.__name__: each
    for each in (
        *(keep_multiples, shift_letters, every_nth, digit_powers, swap_letters),
        *(distant_differences, polynomial, stretch, rotate, clamp_all, join_long, label_all),
        *(group_sums, window_spread, in_base, top_words, rails, by_remainder, recurrence, clock),
        *(long_runs, counting_out, deal, fewest_coins, smooth_total, best_load, fair_parts),
        *(edit_cost, automaton, count_ways, calculate),
    )
}


def test_no_constant_answers_much_of_a_generated_task() -> None:
    for task in GENERATED:
        assert constant_share(task.tests(12, random.Random(1))) <= 0.34, task.name
        shown = [canonical(task.solve(*args)) for args in task.examples]
        assert len(set(shown)) > 1, task.name


def test_variants_and_their_templates_are_in_one_split() -> None:
    for template in TEMPLATES:
        splits = {task.split for task in GENERATED if task.entry_point == template.name}
        assert splits == {template.split}
    assert len({task.prompt() for task in GENERATED}) == len(GENERATED) >= 200


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_a_second_solution_agrees(template: Template) -> None:
    for variant in template.variants:
        first, second = solved(template, variant), SECOND[template.name]
        rng = random.Random(f"second/{template.name}")
        drawn = [template.draw(rng, variant) for _ in range(25)]
        for args in (*template.edges, *drawn):
            found = second(*json.loads(json.dumps(args)), **variant)
            assert first(*json.loads(json.dumps(args))) == found, (variant, args)


def solved(template: Template, variant: Variant) -> Any:
    namespace: dict[str, Any] = {}
    exec(source_of(template, variant), namespace)
    return namespace[template.name]
