"""Which Docker Engine is meant: the one that the ``docker`` command would use.

Rules, in the order of the docker command (cli/command/cli.go, ``resolveContextName``):

1. An address that the caller gives, as ``docker --host``.
2. ``DOCKER_HOST``, unless it is empty.
3. The context that ``DOCKER_CONTEXT`` names.
4. The current context of ``config.json`` in ``DOCKER_CONFIG``, else in ``~/.docker``.
5. The default socket; where there is none, that of Docker Desktop.

A context called ``default`` means the last. aiodocker 0.27.0 is given the address, since left to
itself it takes the contexts before ``DOCKER_HOST`` and reads no ``DOCKER_CONFIG``.
"""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from openenv_async.providers.docker.calls import EngineError

if TYPE_CHECKING:
    from aiodocker import Docker

__all__ = ["EngineAddress", "EngineTls", "find_engine"]

_DEFAULT: Final = "default"
_SOCKET: Final = Path("/var/run/docker.sock")
_PIPE: Final = "npipe:////./pipe/docker_engine"
_OTHER_SOCKET: Final = ".docker/run/docker.sock"
_SCHEMES: Final = ("unix", "npipe", "ssh", "tcp", "http", "https")


@dataclass(frozen=True, slots=True)
class EngineTls:
    """The security of a connection to an Engine.

    Attributes:
        ca, cert, key: paths of PEM files; empty where there is none.
        verify: whether the Engine has to show a certificate that ``ca`` signed.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """The settings for a connection."""
        made = ssl.create_default_context(cafile=self.ca or None)
        if not self.verify:
            made.check_hostname = False
            made.verify_mode = ssl.CERT_NONE
        if self.cert:
            made.load_cert_chain(self.cert, self.key)
        return made


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """The address of a Docker Engine, and the reason for it.

    Attributes:
        url: ``unix://…``, ``tcp://…`` or another that the docker command understands.
        chosen_by: what named it, such as ``DOCKER_HOST``.
        remedy: what to do if none answers there.
        tls: how the connection is secured; ``None``: it is not.
    """

    url: str
    chosen_by: str
    remedy: str
    tls: EngineTls | None = None

    def __str__(self) -> str:
        return f"{self.url} ({self.chosen_by})"

    @property
    def http_url(self) -> str:
        """The address with a scheme that says whether it is TLS."""
        scheme, _, rest = self.url.partition("://")
        if scheme in ("tcp", "http", "https"):
            scheme = "https" if self.tls is not None or scheme == "https" else "http"
        return f"{scheme}://{rest}"

    def no_answer(self, cause: BaseException | None = None) -> str:
        """Say that no Engine answers, with what to do about it."""
        denied = getattr(cause, "os_error", cause)
        if isinstance(denied, PermissionError):
            return (
                f"this user may not use the Docker Engine at {self}: add the user to the group"
                " of its socket, or name another Engine in DOCKER_HOST"
            )
        return f"no Docker Engine answers at {self}: {self.remedy}"

    def connect(self) -> Docker:
        """Make a client; nothing is asked yet.

        Raises:
            EngineError: the address or its certificates are of no use.
        """
        from aiodocker import Docker, DockerError

        try:
            context = None if self.tls is None else self.tls.context()
            return Docker(self.http_url, ssl_context=context)
        except (AssertionError, ValueError, OSError, DockerError) as exc:
            words = exc.message if isinstance(exc, DockerError) else str(exc)
            raise EngineError(
                f"cannot use the Docker Engine at {self}: {words or type(exc).__name__}",
                retryable=False,
            ) from exc


def find_engine(url: str | None = None, environ: Mapping[str, str] | None = None) -> EngineAddress:
    """The Engine at an address, or the one that the docker command would use.

    Args:
        url: the address, if the caller gave one.
        environ: environment variables; by default this process's.

    Raises:
        EngineError: the address is none, or the context that is named does not exist.
    """
    env = os.environ if environ is None else environ
    if url:
        remedy = "start it, or leave the address out, for that of DOCKER_HOST or the docker context"
        return _at(url, "as asked for", remedy, env)
    if host := env.get("DOCKER_HOST"):
        return _at(host, "named by DOCKER_HOST", "start it, or correct or unset DOCKER_HOST", env)
    folder = Path(env.get("DOCKER_CONFIG") or Path.home() / ".docker")
    if name := env.get("DOCKER_CONTEXT"):
        chosen_by = f"the context {name}, named by DOCKER_CONTEXT"
        remedy = "start it, or correct or unset DOCKER_CONTEXT"
    else:
        config = folder / "config.json"
        name = _current_context(config)
        chosen_by = f"the current context {name} of {config}"
        remedy = "start it, or choose another with `docker context use` or DOCKER_HOST"
    if name and name != _DEFAULT:
        return _of_context(folder, name, chosen_by, remedy)
    return _at(_default_url(), "the default", "start one, or name one in DOCKER_HOST", env)


def _at(url: str, chosen_by: str, remedy: str, env: Mapping[str, str]) -> EngineAddress:
    if "://" not in url:
        url = f"tcp://{url}"
    scheme, _, rest = url.partition("://")
    if scheme not in _SCHEMES:
        raise EngineError(
            f"{url!r} ({chosen_by}) is not the address of a Docker Engine: it begins with"
            f" {', '.join(f'{each}://' for each in _SCHEMES[:-1])} or {_SCHEMES[-1]}://",
            retryable=False,
        )
    if scheme == "unix" and not rest:
        url = f"unix://{_SOCKET}"
    verify = bool(env.get("DOCKER_TLS_VERIFY"))
    tls = None
    if scheme in ("tcp", "http", "https") and (verify or env.get("DOCKER_TLS")):
        folder = env.get("DOCKER_CERT_PATH") or env.get("DOCKER_CONFIG") or Path.home() / ".docker"
        tls = _tls(Path(folder), verify)
    if scheme == "tcp" and ":" not in rest.rpartition("]")[2]:
        url = f"tcp://{rest or 'localhost'}:{2375 if tls is None else 2376}"
    return EngineAddress(url, chosen_by, remedy, tls)


def _of_context(folder: Path, name: str, chosen_by: str, remedy: str) -> EngineAddress:
    key = hashlib.sha256(name.encode()).hexdigest()
    file = folder / "contexts" / "meta" / key / "meta.json"
    if not file.exists():
        raise EngineError(
            f"{chosen_by}, does not exist: `docker context ls` lists those that do",
            retryable=False,
        )
    endpoint = (_read(file).get("Endpoints") or {}).get("docker") or {}
    if not endpoint.get("Host"):
        raise EngineError(f"{chosen_by}, names no Docker Engine in {file}", retryable=False)
    certificates = folder / "contexts" / "tls" / key / "docker"
    verify = not endpoint.get("SkipTLSVerify")
    tls = _tls(certificates, verify) if certificates.is_dir() or not verify else None
    return EngineAddress(str(endpoint["Host"]), chosen_by, remedy, tls)


def _tls(folder: Path, verify: bool) -> EngineTls:
    ca, cert, key = (
        str(folder / name) if (folder / name).exists() else ""
        for name in ("ca.pem", "cert.pem", "key.pem")
    )
    return EngineTls(ca, cert, key, verify)


def _current_context(config: Path) -> str:
    if not config.exists():
        return ""
    return str(_read(config).get("currentContext") or "")


def _read(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_bytes())
    except (OSError, ValueError) as exc:
        raise EngineError(
            f"cannot tell which Docker Engine is meant: {file} cannot be read ({exc});"
            " name one in DOCKER_HOST",
            retryable=False,
        ) from exc
    return read if isinstance(read, dict) else {}


def _default_url() -> str:
    if sys.platform == "win32":
        return _PIPE
    other = Path.home() / _OTHER_SOCKET
    return f"unix://{other if not _SOCKET.exists() and other.is_socket() else _SOCKET}"
