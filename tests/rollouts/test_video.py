"""Videos of episodes: files that open, of bounded memory; nothing of them costs an episode."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from openenv_async import Environment, StepResult
from openenv_async.rollouts import Summary, VideoRecorder, collect_all, video


class Drawn(Environment[int, int, dict[str, Any]]):
    """Three steps an episode, drawn in ways that a task of ``reset`` names."""

    isolation: ClassVar[Any] = "inline"

    def __init__(self, what: str = "picture") -> None:
        self.what = what

    def reset(self) -> int:
        self.steps = 0
        return 0

    def step(self, action: int) -> StepResult[int]:
        self.steps += 1
        return StepResult(self.steps, 1.0, terminated=self.steps == 3)

    def render(self) -> Any:
        if self.what == "text":
            return f"\x1b[31mstep {self.steps}\x1b[0m\x1b]0;title\x07\nnext"
        if self.what == "late" and self.steps == 2:
            raise RuntimeError("no paint")
        if self.what == "grows":
            return np.full((200 + 100 * self.steps, 301), 80, np.uint8)
        return np.full((40, 31, 3), 60 * self.steps, np.uint8)


class Blind(Drawn):
    render = None  # type: ignore[assignment]  # it has none


async def record(folder: Path, cls: Any = Drawn, episodes: int = 3, **options: Any) -> Any:
    summary = Summary(episodes)
    recorder = VideoRecorder(folder, **options)
    outcomes = await collect_all(
        cls if isinstance(cls, type) else Drawn,
        lambda observation: 1,
        episodes=episodes,
        params=None if isinstance(cls, type) else {"what": cls},
        concurrency=2,
        video=recorder,
        summary=summary,
    )
    assert all(outcome.episode_return == 3.0 for outcome in outcomes)
    return outcomes, summary


def frames_of(path: Path) -> tuple[int, tuple[int, int]]:
    """The number of frames of an MP4, and their width and height."""
    told = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path], check=False, capture_output=True, text=True
    )
    found = re.search(r"Video: h264.* (\d+)x(\d+)", told.stderr)
    assert found is not None, told.stderr
    count, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    return count, (int(found[1]), int(found[2]))


async def test_a_file_for_each_episode_or_every_nth(tmp_path: Path) -> None:
    outcomes, summary = await record(tmp_path / "all")
    names = [f"episode-{index:06}.mp4" for index in range(3)]
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == names
    assert [outcome.trajectory.extra["video"] for outcome in outcomes] == names
    count, size = frames_of(tmp_path / "all" / names[0])
    assert count == 4  # one after the reset, and one after each step
    assert size == (31 * 6, 40 * 6)  # a small picture is enlarged
    assert not summary.warnings
    outcomes, _ = await record(tmp_path / "some", every=2)
    assert len(list((tmp_path / "some").iterdir())) == 2
    assert "video" not in outcomes[1].trajectory.extra


async def test_a_gif_without_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "imageio_ffmpeg" else find(name)
    )
    await record(tmp_path, episodes=1)
    with Image.open(tmp_path / "episode-000000.gif") as image:
        assert (image.n_frames, image.size) == (4, (186, 240))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"openenv-async\[video\]"):
        VideoRecorder(tmp_path)


def test_a_gif_holds_no_more_than_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 200 * 200 * 3
    monkeypatch.setattr(video, "_GIF_SIZE", 10 * size)
    writer = video._Gif(tmp_path / "long.gif", 50.0)
    for count in range(1000):
        writer.add(np.full((200, 200, 3), count % 256, np.uint8))
        assert writer._bytes <= 11 * size
    writer.close()
    with Image.open(tmp_path / "long.gif") as image:
        assert 5 <= image.n_frames <= 11
        assert image.info["duration"] == 2560  # 128 times 20 ms


async def test_texts_are_an_asciicast_with_colours_alone(tmp_path: Path) -> None:
    await record(tmp_path, "text", episodes=1)
    lines = (tmp_path / "episode-000000.cast").read_text().splitlines()
    header, *events = map(json.loads, lines)
    assert header["version"] == 2
    assert [at for at, _, _ in events] == [0.0, 0.25, 0.5, 0.75]
    assert events[1][2] == "\x1b[H\x1b[2J\x1b[31mstep 1\x1b[0m0;title\r\nnext"


async def test_what_cannot_be_drawn_costs_no_episode(tmp_path: Path) -> None:
    _, summary = await record(tmp_path / "late", "late")
    (warning,) = summary.warnings
    assert (warning.kind, warning.count) == ("video_failed", 3)
    assert "no paint" in warning.message
    assert frames_of(tmp_path / "late" / "episode-000000.mp4")[0] == 2  # what there was
    _, summary = await record(tmp_path / "blind", Blind)
    assert summary.warnings[0].kind == "video_failed"
    assert "no render()" in summary.warnings[0].message
    assert not list((tmp_path / "blind").iterdir())


async def test_a_full_disk_costs_no_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def __init__(self, path: Path, fps: float) -> None:
            raise OSError("no space left on device")

    monkeypatch.setitem(video._WRITERS, "mp4", Full)
    _, summary = await record(tmp_path)
    assert "no space left" in summary.warnings[0].message


async def test_pictures_of_other_sizes_are_cut_or_filled_up(tmp_path: Path) -> None:
    _, summary = await record(tmp_path, "grows", episodes=1)
    assert not summary.warnings
    assert frames_of(tmp_path / "episode-000000.mp4") == (4, (302, 200))


class Paints(gymnasium.Env[Any, Any]):
    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 7}  # noqa: RUF012  # the base has it so
    action_space = observation_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        return 0, 0.0, False, False, {}

    def render(self) -> Any:
        return np.zeros((200, 300, 3), np.uint8)


async def test_a_gymnasium_environment_is_opened_so_that_it_draws(tmp_path: Path) -> None:
    summary = Summary(1)
    await collect_all(
        *(Paints, lambda observation: 1),
        episodes=1,
        max_steps=5,
        video=tmp_path,
        summary=summary,
    )
    assert not summary.warnings
    assert frames_of(tmp_path / "episode-000000.mp4") == (6, (300, 200))
    _, seconds = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "episode-000000.mp4"))
    assert seconds == pytest.approx(6 / 7, abs=0.02)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"fps": 0.0}, {"fps": 1e9}, {"format": "avi"}])
def test_arguments_that_make_no_sense(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        VideoRecorder(tmp_path, **wrong)


async def test_an_agent_is_refused(tmp_path: Path) -> None:
    class Agent:
        async def play(self, lease: Any, turn: Any) -> None:
            """Play nothing."""

    agent: Any = Agent()
    with pytest.raises(TypeError, match="video= is for a policy"):
        await collect_all(Drawn, agent=agent, episodes=1, video=tmp_path)
