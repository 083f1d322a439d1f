"""Videos of episodes: a picture after the reset and after each step, into a file as it comes.

Rules:

- A picture that cannot be had, or written, ends the video and not the episode; the first case of
  its kind is a warning of the summary.
- No more than a frame of an MP4 is held: ``imageio-ffmpeg`` encodes it in a process of its own.
  A GIF is made of frames in memory: of many every second one is left out, again and again.
- Texts become an asciicast (version 2), without the escapes that do more than colour.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, Protocol, Self, get_args

from openenv_async.client.env import EnvClient
from openenv_async.deadlines import wait_uncancelled
from openenv_async.errors import OpenEnvError, OperationUnsupported, error_text
from openenv_async.rollouts.checking import check_count
from openenv_async.rollouts.summary import Summary

__all__ = ["EpisodeVideo", "Video", "VideoFormat", "VideoRecorder", "drawing"]

Video = str | Path | Any
"""A folder, or a ``VideoRecorder``."""
VideoFormat = Literal["mp4", "gif"]

_AT_ONCE: Final = 8
"""Episodes that are recorded at once: each has an encoder of its own."""
_MOST_FRAMES: Final = 36_000
"""Frames of a video: twenty minutes at the usual rate."""
_FPS: Final = 30.0
_TEXT_FPS: Final = 4.0
_MOST_FPS: Final = 240.0
_LEAST_SIDE: Final = 160
"""Pixels of the shorter side; smaller frames are enlarged by a whole number."""
_GIF_SIZE: Final = 64 * 2**20
"""Bytes of frames that are held for a GIF."""
_ESCAPE: Final = re.compile(
    r"\x1b(?!\[[0-9;]*m)(\[[0-?]*[ -/]*[@-~]|.)?|[\x00-\x09\x0b-\x1a\x1c-\x1f]"
)
"""Control characters but the newline and colours."""


class VideoRecorder:
    """A recorder of episodes as videos, for ``collect(video=…)``. It is for one run at a time.

    Files are named ``episode-000012.mp4`` by the number of the episode; the name is in the
    trajectory's ``extra["video"]``.

    Args:
        folder: of the files; made if need be.
        every: record each Nth episode.
        fps: frames a second; by default what the environment says, else 30, of texts 4.
        format: of pictures: ``mp4`` (imageio-ffmpeg) or ``gif`` (Pillow); by default the first
            that is installed. Texts are ``.cast`` files, which asciinema plays.

    Raises:
        ModuleNotFoundError: nothing that writes this format is installed.
        ValueError: an argument makes no sense.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every: int = 1,
        fps: float | None = None,
        format: VideoFormat | None = None,
    ) -> None:
        if format is not None and format not in get_args(VideoFormat):
            raise ValueError(f"format must be one of {', '.join(_WRITERS)}, got {format!r}")
        if fps is not None and not 0 < fps <= _MOST_FPS:
            raise ValueError(f"fps must be more than 0 and at most {_MOST_FPS:g}, got {fps!r}")
        self.folder = Path(folder)
        self.every = check_count("every", every)
        self.fps = fps
        self.format = _available(format)
        self._summary = Summary()
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._draws = True

    def start(self, summary: Summary) -> None:
        """Begin a run; its warnings go to this summary. Done by ``collect``.

        Raises:
            OSError: the folder cannot be made.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._summary = summary
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._draws = True

    def episode(self, index: int) -> EpisodeVideo | None:
        """Return the video of an episode, yet to be made; ``None`` if it is not recorded."""
        return EpisodeVideo(self, index) if self._draws and index % self.every == 0 else None

    def place(self) -> asyncio.Semaphore:
        """Return what an episode holds while it is recorded."""
        return self._places

    def failed(self, index: int, error: BaseException) -> None:
        """Note that a video ends before its episode."""
        if isinstance(error, OperationUnsupported):
            self._draws = False  # the next would not either
        self._summary.warn(
            "video_failed",
            f"the video of episode {index} ended early: {error_text(error)}",
            index,
        )


def drawing(client: Any) -> Any:
    """Return a client whose session is opened so that it draws."""
    if isinstance(client, EnvClient):
        client.renders = True
    return client


class EpisodeVideo:
    """The video of one episode; enter it before the episode, and leave it after.

    Args:
        recorder: of the run.
        index: of the episode.

    Attributes:
        name: of the file; ``None`` while there is none.
    """

    def __init__(self, recorder: VideoRecorder, index: int) -> None:
        self._recorder = recorder
        self._index = index
        self._env: Any = None
        self._writer: _Writer | None = None
        self._frames = 0
        self._is_over = False
        self.name: str | None = None

    async def __aenter__(self) -> Self:
        await self._recorder.place().acquire()
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            await self._end()
        finally:
            self._recorder.place().release()

    async def begin(self, env: Any) -> None:
        """Add the first picture, that of the client whose episode it is."""
        self._env = env
        await self.take()

    async def take(self) -> None:
        """Add a picture of what is, unless one could not be had before."""
        if self._is_over:
            return
        try:
            if not hasattr(self._env, "render"):
                raise OperationUnsupported(f"a {type(self._env).__name__} has no render()")
            picture = await self._env.render()
            await _in_thread(lambda: self._add(picture))
            self._frames += 1
            if self._frames >= _MOST_FRAMES:
                raise ValueError(f"it has {_MOST_FRAMES:,} frames")
        except (OpenEnvError, OSError, ValueError, RuntimeError) as exc:
            self._is_over = True
            self._recorder.failed(self._index, exc)

    def _add(self, picture: Any) -> None:
        if self._writer is None:
            is_text = isinstance(picture, str)
            suffix = "cast" if is_text else self._recorder.format
            told = getattr(getattr(self._env, "connection", None), "server", {}).get("render") or {}
            usual = told.get("fps") or (_TEXT_FPS if is_text else _FPS)
            fps = self._recorder.fps or min(max(float(usual), 0.1), _MOST_FPS)
            name = f"episode-{self._index:06}.{suffix}"
            self._writer = _WRITERS[suffix](self._recorder.folder / name, fps)
            self.name = name
        self._writer.add(picture)

    async def _end(self) -> None:
        writer, self._writer = self._writer, None
        self._is_over = True
        if writer is None:
            return
        try:
            await _in_thread(writer.close)
        except (OSError, ValueError, RuntimeError) as exc:
            self._recorder.failed(self._index, exc)


async def _in_thread(call: Callable[[], None]) -> None:
    """Run what blocks in a thread, to its end even where this is cancelled.

    Raises:
        Exception: that of the call.
    """
    running = asyncio.ensure_future(asyncio.to_thread(call))
    await wait_uncancelled(running)
    running.result()


class _Writer(Protocol):
    """A file of frames."""

    def add(self, frame: Any) -> None:
        """Add a frame: a uint8 array, or a text. It may block."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


class _Mp4:
    """H.264 in an MP4, by ffmpeg."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._fps = fps
        self._encoder: Any = None
        self._size = (0, 0)

    def add(self, frame: Any) -> None:
        """Add a frame; one of another size than the first is cut or filled up."""
        import imageio_ffmpeg
        import numpy as np

        frame = _shown(frame)
        if self._encoder is None:
            height, width = frame.shape[:2]
            self._size = (height + height % 2, width + width % 2)  # H.264 wants even ones
            self._encoder = imageio_ffmpeg.write_frames(
                str(self._path),
                (self._size[1], self._size[0]),
                fps=self._fps,
                macro_block_size=1,
                output_params=["-preset", "veryfast", "-threads", "1"],
                ffmpeg_log_level="error",
            )
            self._encoder.send(None)
        self._encoder.send(np.ascontiguousarray(_fitted(frame, self._size)))

    def close(self) -> None:
        """Finish the file."""
        if self._encoder is not None:
            self._encoder.close()


class _Gif:
    """A GIF, by Pillow, of frames that are held until the end."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._milliseconds = 1000 / fps
        self._frames: list[Any] = []
        self._bytes = 0
        self._stride = 1
        self._seen = 0

    def add(self, frame: Any) -> None:
        """Hold a frame, or leave it out where there are too many."""
        self._seen += 1
        if (self._seen - 1) % self._stride:
            return
        shown = _shown(frame)
        self._frames.append(shown)
        self._bytes += shown.nbytes
        if self._bytes > _GIF_SIZE and len(self._frames) > 1:
            self._frames = self._frames[::2]
            self._stride *= 2
            self._bytes = sum(each.nbytes for each in self._frames)

    def close(self) -> None:
        """Write the file."""
        from PIL import Image

        if not self._frames:
            return
        size = self._frames[0].shape[:2]
        first, *rest = [Image.fromarray(_fitted(frame, size)) for frame in self._frames]
        # Browsers take less than 20 ms for 100.
        milliseconds = max(20, round(self._milliseconds * self._stride))
        first.save(self._path, save_all=True, append_images=rest, duration=milliseconds, loop=0)


class _Cast:
    """Texts in an asciicast: a header, then a line for each screen."""

    def __init__(self, path: Path, fps: float) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._seconds = 1 / fps
        self._count = 0

    def add(self, frame: Any) -> None:
        """Add a screen; a picture among texts is left out."""
        if not isinstance(frame, str):
            return
        lines = _ESCAPE.sub("", frame.replace("\r\n", "\n").replace("\t", "    ")).split("\n")
        if not self._count:
            width = max(20, *map(len, lines))
            header = {"version": 2, "width": width, "height": max(5, len(lines))}
            self._file.write(json.dumps(header) + "\n")
        screen = "\x1b[H\x1b[2J" + "\r\n".join(lines)
        at = round(self._count * self._seconds, 3)
        self._file.write(json.dumps([at, "o", screen]) + "\n")
        self._count += 1

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


_WRITERS: Final[dict[str, Callable[[Path, float], _Writer]]] = {
    "mp4": _Mp4,
    "gif": _Gif,
    "cast": _Cast,
}
_LIBRARIES: Final = {"mp4": "imageio_ffmpeg", "gif": "PIL"}


def _available(wanted: VideoFormat | None) -> VideoFormat:
    """Return a format that can be written.

    Raises:
        ModuleNotFoundError: there is none.
    """
    formats = get_args(VideoFormat) if wanted is None else (wanted,)
    for each in formats:
        if importlib.util.find_spec(_LIBRARIES[each]) and importlib.util.find_spec("numpy"):
            return each  # type: ignore[no-any-return]  # one of the literals
    raise ModuleNotFoundError(
        "videos need imageio-ffmpeg, or Pillow for GIFs: pip install 'openenv-async[video]'"
    )


def _shown(frame: Any) -> Any:
    """Return a frame as uint8 [height, width, 3], enlarged if it is very small."""
    import numpy as np

    frame = np.asarray(frame)
    if frame.ndim == 2:
        frame = frame[:, :, None]
    frame = np.repeat(frame, 3, axis=2) if frame.shape[2] == 1 else frame[:, :, :3]
    factor = -(-_LEAST_SIDE // min(frame.shape[:2]))
    return frame if factor == 1 else frame.repeat(factor, axis=0).repeat(factor, axis=1)


def _fitted(frame: Any, size: tuple[int, int]) -> Any:
    """Return a frame cut, or filled up with black, to this height and width."""
    import numpy as np

    if frame.shape[:2] == size:
        return frame
    fitted = np.zeros((*size, 3), np.uint8)
    height, width = (min(a, b) for a, b in zip(frame.shape, size, strict=False))
    fitted[:height, :width] = frame[:height, :width]
    return fitted
