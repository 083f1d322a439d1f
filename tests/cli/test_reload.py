"""``openenv-async reload``, and SIGHUP: a server of a file reads it again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

from openenv_async import GenericEnvClient
from openenv_async.errors import OpenEnvError
from openenv_async.server.callers import digest_of
from tests.cli.commands import COUNTING, HANGING, invoke, started


async def test_by_request_and_by_signal(tmp_path: Path) -> None:
    config, secret = tmp_path / "a.yaml", tmp_path / "token.txt"
    secret.write_text("sesame")
    tokens = f"tokens: {{boss: {{digest: 'sha256:{digest_of('sesame').hex()}', admin: true}}}}"
    config.write_text(f"environments: {{one: {{target: '{COUNTING}'}}}}\n{tokens}")
    with started("serve", "--config", str(config), "--port", "0", "--json") as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        asked = ("reload", url, "--token-file", str(secret))
        result = await asyncio.to_thread(invoke, *asked)
        assert result.stdout == "nothing has changed\n"
        refused = await asyncio.to_thread(invoke, "reload", url)
        assert refused.exit_code == 1
        assert "token" in refused.stderr
        one = f"one: {{target: '{COUNTING}', max_sessions: 3}}"
        config.write_text(f"environments: {{{one}}}\n{tokens}")
        result = await asyncio.to_thread(invoke, *asked)
        assert result.stdout == "changed environments: one\n"
        config.write_text(f"environments: {{{one}, two: {{target: '{HANGING}'}}}}\n{tokens}")
        os.kill(process.pid, signal.SIGHUP)
        async with asyncio.timeout(20):
            while True:
                try:
                    async with GenericEnvClient(f"{url}/two", token="sesame") as env:
                        assert env.connection is not None
                        break
                except (OpenEnvError, OSError):
                    await asyncio.sleep(0.05)
        process.terminate()
        assert process.wait(20) == 0
