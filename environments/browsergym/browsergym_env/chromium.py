"""One Chromium for all sessions of an event loop that may reach the same.

Rules:

- The first session launches it, the last one to leave closes it.
- Each session has a browser context of its own: its own cookies, storage and renderer process.
- A Chromium that died is replaced by the next session that asks; those that used it learn of it
  from their own pages.
- There is one for each set of sites that sessions may reach (``sites``), as a rule one alone: for
  MiniWoB and own pages, which reach nothing. Names do not resolve, and proxies are off.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from playwright.async_api import Browser, Error, Playwright, async_playwright

from browsergym_env.sites import NO_NETWORK
from openenv_async.deadlines import wait_uncancelled
from openenv_async.errors import EnvironmentStartFailed

__all__ = ["SharedChromium", "find_chromium", "shared_chromium"]

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_ARGS: Final = (
    # No proxy of the machine is asked.
    "--no-proxy-server",
    # No calls home: updates, reports, hints, sync, pings. Playwright adds more of the kind.
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-client-side-phishing-detection",
    "--disable-component-update",
    "--disable-crash-reporter",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-sync",
    "--metrics-recording-only",
    "--no-pings",
    # Shared memory from the temporary folder: containers have 64 MiB of /dev/shm.
    "--disable-dev-shm-usage",
    # The same picture on every machine, without a GPU.
    "--disable-gpu",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
    "--hide-scrollbars",
    # The wheel scrolls at once: an animation would go on in the browser's own time.
    "--disable-smooth-scrolling",
)
_CLOSE_TIMEOUT: Final = 10.0


@dataclass(frozen=True)
class _Launched:
    playwright: Playwright
    browser: Browser

    async def stop(self) -> None:
        """Close both; a browser may be gone already."""
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self.browser.close()
        except (Error, TimeoutError):
            pass
        finally:
            await self.playwright.stop()


class SharedChromium:
    """The Chromium of one event loop; see ``shared_chromium``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rules: str) -> None:
        self._loop = loop
        self._rules = rules
        self._users: set[object] = set()
        self._launch: asyncio.Task[_Launched] | None = None

    @property
    def users(self) -> int:
        """Return the number of sessions that hold it."""
        return len(self._users)

    async def browser(self, user: object) -> Browser:
        """The running browser, launched if there is none; ``user`` holds it until ``leave``.

        Cancelling the caller does not stop the launch, which others may wait for.

        Raises:
            EnvironmentStartFailed: Chromium is missing or does not start.
        """
        self._users.add(user)
        task = self._launch
        if task is None or (task.done() and not _alive(task)):
            self._launch = task = self._loop.create_task(_launch(task, self._rules))
        return (await asyncio.shield(task)).browser

    async def leave(self, user: object) -> None:
        """``user`` needs it no more; the last one closes it, also when cancelled meanwhile."""
        self._users.discard(user)
        if self._users:
            return
        task, self._launch = self._launch, None
        _shared.pop((self._loop, self._rules), None)
        if task is not None:
            stopping = self._loop.create_task(_stop(task))
            await wait_uncancelled(stopping)
            stopping.result()


_shared: dict[tuple[asyncio.AbstractEventLoop, str], SharedChromium] = {}


def shared_chromium(rules: str = NO_NETWORK) -> SharedChromium:
    """The Chromium of the running loop that resolves names by these rules."""
    loop = asyncio.get_running_loop()
    return _shared.setdefault((loop, rules), SharedChromium(loop, rules))


def find_chromium() -> str:
    """The executable: ``BROWSERGYM_CHROMIUM``, else what is on ``PATH``.

    Raises:
        EnvironmentStartFailed: there is none.
    """
    given = os.environ.get("BROWSERGYM_CHROMIUM")
    if given:
        if not os.access(given, os.X_OK):
            raise EnvironmentStartFailed(f"BROWSERGYM_CHROMIUM is {given!r}: no executable")
        return given
    for name in _NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    raise EnvironmentStartFailed(
        "no Chromium on PATH: install it (apt-get install chromium) or set BROWSERGYM_CHROMIUM"
    )


def _alive(task: asyncio.Task[_Launched]) -> bool:
    if task.cancelled() or task.exception() is not None:
        return False
    return task.result().browser.is_connected()


async def _stop(task: asyncio.Task[_Launched]) -> None:
    await asyncio.wait([task])
    if task.cancelled() or task.exception() is not None:
        return  # its callers were told
    await task.result().stop()


async def _launch(former: asyncio.Task[_Launched] | None, rules: str) -> _Launched:
    if former is not None:
        await _stop(former)
    executable = find_chromium()
    try:
        playwright = await async_playwright().start()
    except Exception as exc:  # Playwright's own: it has no class of error for this
        raise EnvironmentStartFailed(
            f"Playwright's driver does not start ({exc}): its output on stderr says why"
        ) from exc
    try:
        browser = await playwright.chromium.launch(
            executable_path=executable,
            headless=os.environ.get("BROWSERGYM_HEADLESS", "true").lower() not in ("0", "false"),
            # The sandbox needs rights that containers lack; the README says when it is wanted.
            chromium_sandbox=os.environ.get("BROWSERGYM_SANDBOX", "0") == "1",
            args=[f"--host-resolver-rules={rules}", *_ARGS],
            env=_environment(),
            handle_sigint=False,
            handle_sigterm=False,
            handle_sighup=False,
        )
    except Error as exc:
        await playwright.stop()
        raise EnvironmentStartFailed(
            f"{executable} does not start: {_first_lines(exc)}", log_tail=str(exc)[-4000:]
        ) from exc
    except BaseException:
        await playwright.stop()
        raise
    return _Launched(playwright, browser)


def _environment() -> dict[str, str | float | bool]:
    """The server's, without proxies, and with a home that can be written."""
    environment: dict[str, str | float | bool] = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
    home = os.environ.get("HOME", "")
    if not (home and Path(home).is_dir() and os.access(home, os.W_OK)):
        environment["HOME"] = os.environ.get("TMPDIR", "/tmp")
    return environment


def _first_lines(exc: Error) -> str:
    return " ".join(exc.message.split("\n")[0].split())[:300]
