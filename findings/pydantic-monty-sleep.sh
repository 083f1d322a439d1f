#!/usr/bin/env bash
# pydantic-monty 1.4.0: sleep() returns after ten seconds whatever was asked, and random has no
# fixed start.
#
# Both are defaults of checkout(os_policy=...): sleep_system_max caps a sleep without an error, and
# random_start draws from the system. {"random_start": {"seed": 7}} gives CPython's numbers.
#
# Seen with pydantic-monty 1.4.0, Python 3.11:
#   time.sleep(12) took 10 s
#   two fresh sessions draw equal numbers: False
#   seeded with 7, random() is CPython's: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "pydantic-monty==1.4.0"
"$work/venv/bin/pip" list 2>/dev/null | grep -i '^pydantic-monty '
"$work/venv/bin/python" - <<'PY'
import random
import time

from pydantic_monty import Monty

DRAW = "import random\nrandom.random()"
with Monty() as pool:
    with pool.checkout() as session:
        begun = time.monotonic()
        session.feed_run("import time\ntime.sleep(12)")
        took = round(time.monotonic() - begun)
    print(f"time.sleep(12) took {took} s")
    drawn = []
    for _ in range(2):
        with pool.checkout() as session:
            drawn.append(session.feed_run(DRAW))
    print(f"two fresh sessions draw equal numbers: {drawn[0] == drawn[1]}")
    with pool.checkout(os_policy={"random_start": {"seed": 7}}) as session:
        same = session.feed_run(DRAW) == random.Random(7).random()
    print(f"seeded with 7, random() is CPython's: {same}")
assert took in (10, 11), took
assert drawn[0] != drawn[1]
assert same
PY
