"""``openenv-async view``: tables, one file, a page until Ctrl-C, and what is refused."""

from __future__ import annotations

import signal
import urllib.request
from pathlib import Path

import pytest

from tests.cli.commands import PROGRAM, ROOT, invoke
from tests.rollouts.run_folders import recorded
from tests.viewer.samples import write_sample


def test_tables_of_two_sources_and_a_story(tmp_path: Path) -> None:
    run, file = recorded(tmp_path / "run", 6), write_sample(tmp_path / "a.jsonl", 8)
    done = invoke("view", str(run), str(file), "--terminal", "--rows", "3")
    assert done.exit_code == 0, done.output
    assert "6 of 8" in done.output
    assert done.output.count("a.jsonl") == 4
    done = invoke("view", str(run), "--terminal", "--episode", "3")
    assert (done.exit_code, done.output.splitlines()[0][:20]) == (0, "episode 3: completed")
    done = invoke("view", str(run), "--terminal", "--episode", "30")
    assert done.exit_code == 2
    assert "there is no episode 30 in run" in done.output


def test_one_file_is_written_and_notices_are_told(tmp_path: Path) -> None:
    path, out = write_sample(tmp_path / "a.jsonl", 8), tmp_path / "a.html"
    path.write_bytes(path.read_bytes()[:-10])
    done = invoke("view", str(path), "--html", str(out))
    assert done.exit_code == 0, done.output
    assert f"7 episodes are in {out} (" in done.output
    assert "a.jsonl: the last line of a.jsonl is not whole" in done.output
    assert out.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--episode", "1"), "--terminal"),
        (("--terminal", "--html", "a.html"), "not both"),
    ],
)
def test_options_that_belong_to_others_are_refused(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    done = invoke("view", str(write_sample(tmp_path / "a.jsonl", 1)), *options)
    assert done.exit_code == 2
    assert said in done.output


def test_what_is_not_there_is_refused() -> None:
    done = invoke("view", "missing", "--terminal")
    assert done.exit_code == 2
    assert "there is no missing" in done.output


def test_the_page_is_served_until_interrupted(tmp_path: Path) -> None:
    import subprocess

    path = write_sample(tmp_path / "a.jsonl", 8)
    command = [*PROGRAM, "view", str(path), "--no-open"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split(" at ")[1].split(" until ")[0]
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert "<title>Episodes</title>" in answer.read().decode()
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()
