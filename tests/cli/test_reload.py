"""``openenv-async reload``, and SIGHUP: a server of a file reads it again."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from openenv_async import GenericEnvClient
from openenv_async.server.callers import digest_of
from tests.cli.commands import invoke
from tests.cli.test_serve import COUNTING, HANGING, started
from tests.helpers import until


async def test_by_request_and_by_signal(tmp_path: Path) -> None:
    config, secret = tmp_path / "a.yaml", tmp_path / "token.txt"
    secret.write_text("sesame")
    tokens = f"tokens: {{boss: {{digest: 'sha256:{digest_of('sesame').hex()}', admin: true}}}}"
    config.write_text(f"environments: {{one: {{target: '{COUNTING}'}}}}\n{tokens}")
    with started("serve", "--config", str(config), "--port", "0", "--json") as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        asked = ("reload", url, "--token-file", str(secret))
        assert invoke(*asked).stdout == "nothing has changed\n"
        refused = invoke("reload", url)
        assert refused.exit_code == 1
        assert "token" in refused.stderr
        one = f"one: {{target: '{COUNTING}', max_sessions: 3}}"
        config.write_text(f"environments: {{{one}}}\n{tokens}")
        assert invoke(*asked).stdout == "changed environments: one\n"
        config.write_text(f"environments: {{{one}, two: {{target: '{HANGING}'}}}}\n{tokens}")
        os.kill(process.pid, signal.SIGHUP)

        def is_there() -> bool:
            found = invoke("info", f"{url}/two", "--token-file", str(secret))
            return found.exit_code == 0

        await until(is_there)
        async with GenericEnvClient(f"{url}/one", token="sesame") as env:
            await env.reset()
        process.terminate()
        assert process.wait(20) == 0
