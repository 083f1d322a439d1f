"""The script against files that the agent has not seen."""

import subprocess
from pathlib import Path

CASES = {
    "item,price\na,1.25\nb,2.5\nc,0.75\n": "4.50",
    "item,price\n\na,10\n\nb,0.05\n": "10.05",
    "item,price\n": "0.00",
    'item,price\n"a, b",3.333\n': "3.33",
}


def passes(text: str, expected: str) -> bool:
    Path("/tmp/case.csv").write_text(text)
    done = subprocess.run(
        ["python3", "/app/total.py", "/tmp/case.csv"], capture_output=True, text=True, timeout=10
    )
    print(repr(text), "->", done.stdout.strip(), done.stderr[-200:], "expected", expected)
    return done.returncode == 0 and done.stdout.strip() == expected


passed = sum([passes(text, expected) for text, expected in CASES.items()])
Path("/logs/verifier/reward.txt").write_text("1" if passed == len(CASES) else "0")
