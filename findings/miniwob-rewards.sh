#!/usr/bin/env bash
# miniwob 1.1.0: a positive reward is no success, and no fixed one is.
#
# Pages end an episode with a number. find-greatest gives 0.1 for a wrong card, so "positive" does
# not mean solved; find-midpoint gives 1 only for an answer that no click can hit exactly, so the
# package's own get_binary_reward (1 where the reward is 1) calls nearly perfect answers failures;
# hover-shape gives nothing at all: its page never ends an episode.
#
# Seen with miniwob 1.1.0, Python 3.11:
#   find-greatest:  else core.endEpisode(0.1, true);
#   find-midpoint:  get_binary_reward of a raw reward of 0.99: -1.0
#   hover-shape:    0 calls of endEpisode
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-deps "miniwob==1.1.0"
pages=$(find "$work/venv" -path '*miniwob/html/miniwob' -type d)
echo "miniwob $("$work/venv/bin/pip" show miniwob 2>/dev/null | sed -n 's/^Version: //p')"

wrong=$(grep -o 'else core.endEpisode(0.1, true);' "$pages/find-greatest.html")
echo "find-greatest:  $wrong"
near=$("$work/venv/bin/python" - "$pages/../../reward.py" <<'PY'
import runpy, sys

names = runpy.run_path(sys.argv[1])  # without the package, whose import needs Selenium
print(names["get_binary_reward"]({"done": True, "raw_reward": 0.99, "env_reward": 0.9}))
PY
)
grep -q 'var score = (maxDistance - distance)/maxDistance;' "$pages/find-midpoint.html"
echo "find-midpoint:  get_binary_reward of a raw reward of 0.99: $near"
calls=$(grep -c 'endEpisode' "$pages/hover-shape.html" || true)
echo "hover-shape:    $calls calls of endEpisode"
[ "$near" = -1.0 ]
[ "$calls" = 0 ]
