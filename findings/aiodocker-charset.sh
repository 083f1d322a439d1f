#!/usr/bin/env bash
# aiodocker 0.27.0: an error whose Content-Type names a charset is shown as raw JSON.
#
# The Engine answers an error with {"message": …}, and DockerError.message is that text. With
# "application/json; charset=utf-8", which is as valid (RFC 9110, 8.3.1) and what aiohttp's own
# json_response sends, for one, the message is the whole body instead.
#
# Seen with aiodocker 0.27.0, Python 3.11:
#   application/json:                no such image
#   application/json; charset=utf-8: {"message": "no such image"}
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "aiodocker==0.27.0"

cat >"$work/ask.py" <<'PY'
import asyncio
import sys

import aiodocker
from aiohttp import web


async def main(folder: str, content_type: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/version":
            return web.json_response({"ApiVersion": "1.41"})
        body = b'{"message": "no such image"}'
        return web.Response(status=404, body=body, headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, f"{folder}/engine.sock").start()
    docker = aiodocker.Docker(url=f"unix://{folder}/engine.sock")
    try:
        await docker.images.inspect("missing")
    except aiodocker.DockerError as error:
        print(error.message)
    finally:
        await docker.close()
        await runner.cleanup()


asyncio.run(main(*sys.argv[1:]))
PY

"$work/venv/bin/pip" list 2>/dev/null | grep -i '^aiodocker'
first=$("$work/venv/bin/python" "$work/ask.py" "$work" "application/json")
echo "application/json:                $first"
second=$("$work/venv/bin/python" "$work/ask.py" "$work" "application/json; charset=utf-8")
echo "application/json; charset=utf-8: $second"
[ "$first" = "no such image" ]
[ "$second" = '{"message": "no such image"}' ]
