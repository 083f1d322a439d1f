"""``openenv-async rollout`` on workers: how many, of what, and what makes no sense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from openenv_async.building.build import image_name
from openenv_async.cli import main
from openenv_async.errors import TargetNotFound
from openenv_async.pool.sources import image_of
from openenv_async.targets.discovery import find_entry

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_several_workers_share_the_episodes() -> None:
    target = "tests.rollouts.environments:Counting"
    arguments = ["rollout", target, "--servers", "2", "--episodes", "20", "--json"]
    done = CliRunner().invoke(main, [*arguments, "--param", "goal=1", "--max-steps", "5"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["episodes"] == 20
    assert (report["workers"]["workers_started"], report["workers"]["sessions"]) == (2, 0)
    assert report["workers"]["seconds"]["used"] > 0


def test_the_table_tells_of_the_workers() -> None:
    done = CliRunner().invoke(
        main, ["rollout", "echo", "--workers", "2", "--episodes", "4", "--max-steps", "1"]
    )
    assert done.exit_code == 0, done.output
    assert "worker seconds used" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["echo", "--provider", "static"], "a URL is played at as it is"),
        (["http://127.0.0.1:1", "--provider", "process"], "a URL is played at as it is"),
        (["echo", "--provider", "docker", "--param", "a=1"], "has its arguments already"),
        (["echo", "--image", "x"], "only docker runs images"),
        (["echo", "--servers", "0"], "--servers"),
    ],
)
def test_what_makes_no_sense_is_one_line(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["rollout", *arguments])
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_what_does_not_start_is_one_line() -> None:
    done = CliRunner().invoke(main, ["rollout", "nothing-here"])
    assert done.exit_code == 2
    assert "there is no environment 'nothing-here'" in done.output
    assert done.output.count("\n") == 1


def test_a_class_of_a_file_is_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert image_of("game:Guess") == "game:Guess"
    (tmp_path / "game.py").touch()
    with pytest.raises(TargetNotFound, match=r"containers run images: .* openenv-async build"):
        image_of("game:Guess")
    assert image_of("here:5000/game:Guess") == "here:5000/game:Guess"


def test_the_image_of_a_folder_is_what_build_makes(tmp_path: Path) -> None:
    (tmp_path / "openenv.yaml").write_text("name: my_env\n")
    assert image_of(str(tmp_path)) == image_name(tmp_path) == "openenv-async-my:latest"


def test_the_image_of_an_environment() -> None:
    assert image_of("echo") == (find_entry("echo").image or "openenv-async-echo:latest")
    assert image_of("registry/some-image:1") == "registry/some-image:1"
