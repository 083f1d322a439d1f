#!/usr/bin/env bash
# aiodocker 0.27.0: the current Docker context wins over DOCKER_HOST, and DOCKER_CONFIG is not read.
#
# Its documentation puts DOCKER_HOST before DOCKER_CONTEXT and the current context, as the docker
# command does; the code asks the contexts first, and always those in ~/.docker.
#
# Seen with aiodocker 0.27.0, Python 3.11:
#   DOCKER_HOST set, a current context in ~/.docker: unix:///of-the-context.sock
#   DOCKER_CONFIG set, its current context:          unix:///of-docker-host.sock
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "aiodocker==0.27.0"

write_context() { # FOLDER URL
    local key
    key=$(printf mine | sha256sum | cut -d' ' -f1)
    mkdir -p "$1/contexts/meta/$key"
    echo '{"currentContext": "mine"}' >"$1/config.json"
    echo "{\"Name\": \"mine\", \"Endpoints\": {\"docker\": {\"Host\": \"$2\"}}}" \
        >"$1/contexts/meta/$key/meta.json"
}

cat >"$work/which.py" <<'PY'
import asyncio
import aiodocker

async def main():
    docker = aiodocker.Docker()
    print(docker._connection_info)
    await docker.close()

asyncio.run(main())
PY
ask() { # HOME VARIABLES…
    local home=$1
    shift
    env -u DOCKER_HOST -u DOCKER_CONTEXT -u DOCKER_CONFIG HOME="$home" "$@" \
        "$work/venv/bin/python" "$work/which.py"
}

mkdir -p "$work/with" "$work/without"
write_context "$work/with/.docker" unix:///of-the-context.sock
write_context "$work/config" unix:///of-the-config.sock

"$work/venv/bin/pip" list 2>/dev/null | grep -i '^aiodocker'
first=$(ask "$work/with" DOCKER_HOST=unix:///of-docker-host.sock)
echo "DOCKER_HOST set, a current context in ~/.docker: $first"
second=$(ask "$work/without" DOCKER_CONFIG="$work/config" DOCKER_HOST=unix:///of-docker-host.sock)
echo "DOCKER_CONFIG set, its current context:          $second"
[ "$first" = unix:///of-the-context.sock ]
[ "$second" = unix:///of-docker-host.sock ]
