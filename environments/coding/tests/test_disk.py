"""The disk limit holds for whatever code can make, for root and for others; all of it goes."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Final

import pytest
from coding_env.sandbox.inside.tree import remove_tree, used

MIB: Final = 1 << 20
_BOUNDING_SET_DROP: Final = 24
FILL: Final = "for i in range(8): open(f'f{i}', 'wb').write(b'x' * (1 << 20))"
FULL: Final = {
    "files": FILL,
    "files without rights": f"import os\nos.umask(0o777)\n{FILL}",
    "a folder that cannot be read": f"import os\nos.mkdir('d', 0o300)\nos.chdir('d')\n{FILL}",
    "a folder in one that cannot be read": "import os\nos.mkdir('d', 0o300)\nos.mkdir('d/e')\n"
    f"os.chdir('d/e')\n{FILL}",
    "a nest past the longest path": "import os\nfor _ in range(30):\n    os.mkdir('n' * 200)\n"
    f"    os.chdir('n' * 200)\n{FILL}",
    "a nest without rights": "import os\nfor _ in range(30):\n    os.mkdir('n' * 200, 0o300)\n"
    f"    os.chdir('n' * 200)\n{FILL}",
    "a deep nest": "import os\nfor _ in range(150):\n    os.mkdir('d')\n    os.chdir('d')",
    "removed files that are open": "import os\nkept = []\nfor i in range(8):\n"
    "    kept.append(open(f'f{i}', 'wb', 0))\n    kept[-1].write(b'x' * (1 << 20))\n"
    "    os.remove(f'f{i}')",
    "removed files that are mapped": "import mmap, os\nkept = []\nfor i in range(8):\n"
    "    with open(f'f{i}', 'w+b', 0) as file:\n        file.write(b'x' * (1 << 20))\n"
    "        kept.append(mmap.mmap(file.fileno(), 4096))\n    os.remove(f'f{i}')",
    "many folders": "import os\nfor i in range(60): os.mkdir(str(i), 0)",
}
ALLOWED: Final = {
    "a removed file that is open": "import os\n"
    "f = open('f', 'wb', 0)\nf.write(b'x')\nos.remove('f')",
    "shared memory without a file": "import mmap\n"
    "m = mmap.mmap(-1, 8 << 20)\nm[::4096] = b'x' * 2048",
    "folders": "import os\nos.makedirs('/'.join('abcdefgh'))\nos.mkdir('x', 0)",
}
RUN: Final = """
import asyncio, json, os, sys
from coding_env.sandbox import Limits, Sandbox

async def main() -> None:
    limits = Limits(max_disk_size=4 << 20, max_files=160, max_file_size=2 << 20)
    if "many" in sys.argv[2]:
        limits = Limits(max_files=50)
    async with Sandbox(limits) as box:
        await box.start()
        first = box.folder
        result = await box.execute(sys.argv[1], timeout=60.0)
        gone = not os.path.lexists(first)
        alive = (await box.execute("print('alive')")).stdout
        last = box.folder
    told = {"error_type": result.error_type, "stderr": result.stderr, "first_gone": gone}
    told |= {"alive": alive, "last_gone": not os.path.lexists(last)}
    print(json.dumps(told))

asyncio.run(main())
"""


def without_capabilities() -> None:
    """For a child: what it starts is a user like any other, also as root."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(64):
        libc.prctl(_BOUNDING_SET_DROP, capability, 0, 0, 0)


def run_as_anybody(program: str, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, "TMPDIR": str(cwd)},
        preexec_fn=without_capabilities,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_is_somebody_without_rights_to_test_with(tmp_path: Path) -> None:
    """Else the tests below would prove nothing where the suite runs as root."""
    program = "import os; os.mkdir('d', 0); print(os.access('d', os.R_OK))"
    assert run_as_anybody(program, cwd=tmp_path) == "False\n"


@pytest.mark.parametrize("name", FULL)
def test_the_limit_holds_and_what_was_made_is_removed(name: str, tmp_path: Path) -> None:
    told: dict[str, Any] = json.loads(run_as_anybody(RUN, FULL[name], name, cwd=tmp_path))
    assert told == {
        "error_type": "DiskLimitExceeded",
        "stderr": "",
        "first_gone": True,
        "alive": "alive\n",
        "last_gone": True,
    }
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ALLOWED)
def test_little_is_allowed(name: str, tmp_path: Path) -> None:
    told = json.loads(run_as_anybody(RUN, ALLOWED[name], name, cwd=tmp_path))
    assert (told["error_type"], told["stderr"], told["last_gone"]) == ("", "", True)
    assert os.listdir(tmp_path) == []


def test_folders_are_removed_when_the_server_is_killed(tmp_path: Path) -> None:
    """By the zygote, which is then the only one who knows of them."""
    program = textwrap.dedent("""
        import asyncio, os, signal
        from coding_env.sandbox import Limits, Sandbox

        async def main() -> None:
            box = Sandbox(Limits())
            await box.start()
            await box.execute("import os; os.mkdir('d', 0o300); os.mkdir('d/e', 0o300)")
            print(os.listdir(os.environ["TMPDIR"]), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        preexec_fn=without_capabilities,
    )
    out, _ = process.communicate(timeout=60)  # until the zygote, too, has closed its end
    assert "openenv-coding-" in out
    assert os.listdir(tmp_path) == []


def test_measuring_and_removing_go_anywhere(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import os
        from coding_env.sandbox.inside.tree import remove_tree, used

        os.mkdir("t")
        assert used("t", 100) == (0, 0)
        place = os.open("t", os.O_RDONLY)
        for _ in range(40):  # 9,000 characters
            os.mkdir("n" * 220, 0o700, dir_fd=place)
            inner = os.open("n" * 220, os.O_RDONLY, dir_fd=place)
            os.fchmod(place, 0o300)
            os.close(place)
            place = inner
        with open(os.open("f", os.O_CREAT | os.O_WRONLY, 0, dir_fd=place), "wb") as file:
            file.write(b"x" * 8192)
        os.symlink("/etc", "t/link")
        os.mkdir("t/none", 0)
        assert used("t", 100) == (8192 + len("/etc"), 43)  # a link is as long as what it names
        assert used("t", 20)[1] == 21
        remove_tree("t")
        assert not os.path.lexists("t")
        assert os.path.exists("/etc/passwd")
        remove_tree("t")  # that is not there
        assert used("t", 5) == (0, 0)
        print("done")
    """)
    assert run_as_anybody(program, cwd=tmp_path) == "done\n"


def test_a_nest_of_any_depth_is_removed_and_not_measured(tmp_path: Path) -> None:
    top = tmp_path / "t"
    top.mkdir()
    place = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=place)
        inner = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)
    assert used(str(top), 10_000)[1] == 10_001
    remove_tree(str(top))
    assert not top.exists()


def test_a_folder_that_changes_is_measured_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_bytes(b"x" * 4096)
    with contextlib.suppress(OSError):
        os.mkfifo(tmp_path / "c")
    size, count = used(str(tmp_path), 10)
    assert size >= 4096
    assert count == 3
