"""The trainer in ``examples`` learns to choose queries."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "examples" / "sqlite_grpo.py"


def test_the_return_rises_and_holds_on_questions_never_seen(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    means = [float(mean) for mean in re.findall(r"mean return ([\d.]+)", done.stdout)]
    first, *_, last, tested = means
    assert len(means) == 11
    assert first < 0.6, done.stdout
    assert max(last, tested) > first + 0.2, done.stdout
    assert tested > 0.75, done.stdout
