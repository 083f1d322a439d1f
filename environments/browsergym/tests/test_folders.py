"""Files of a folder, and nothing outside of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from browsergym_env.actions import ActionError
from browsergym_env.folders import MAX_FILE_SIZE, Folder, Uploads

from openenv_async.errors import InvalidOption


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "logins").mkdir()
    (root / "sub" / "a b.html").write_text("page")
    (root / "tasks.jsonl").write_text("answers")
    (root / "logins" / "shop.json").write_text("cookies")
    (root / ".hidden").write_text("hidden")
    (tmp_path / "root-beside").mkdir()
    (tmp_path / "root-beside" / "secret").write_text("secret")
    (tmp_path / "secret").write_text("secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "out").symlink_to(tmp_path)
    (root / "round").symlink_to(root / "round")
    (root / "inside").symlink_to(root / "sub" / "a b.html")
    os.mkfifo(root / "pipe")
    with (root / "large").open("wb") as large:
        large.truncate(MAX_FILE_SIZE + 1)
    return root


@pytest.mark.parametrize(
    "name",
    [
        "../secret", "/../secret", "sub/../../secret", "..", ".", "", "/", "//etc/passwd",
        "/etc/passwd", "link", "out/secret", "out/root-beside/secret", "../root-beside/secret",
        ".hidden", "sub/.", "tasks.jsonl", "logins/shop.json", "inside/../tasks.jsonl", "round",
        "pipe", "large", "sub", "sub/", "none", "a\0b", "..\\secret", "sub\\a b.html", "x" * 5000,
    ],
)  # fmt: skip
def test_nothing_else_is_read(root: Path, name: str) -> None:
    folder = Folder(root, "pages", [root / "tasks.jsonl", root / "logins"])
    assert folder.read(name) is None


@pytest.mark.parametrize("name", ["sub/a b.html", "/sub/a b.html", "inside"])
def test_a_file_is_read_with_its_type(root: Path, name: str) -> None:
    assert Folder(root, "pages").read(name) == (b"page", "text/html")


def test_what_is_no_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"uploads: '.*none' is not a folder"):
        Folder(tmp_path / "none", "uploads")


def test_uploads_are_bytes_with_names_and_types(root: Path) -> None:
    uploads = Uploads(Folder(root / "sub", "uploads"))
    assert uploads.read(["a b.html"]) == [
        {"name": "a b.html", "mimeType": "text/html", "buffer": b"page"}
    ]
    with pytest.raises(ActionError, match=r"no file '../secret' to upload; there are: a b.html"):
        uploads.read("../secret")
    with pytest.raises(ActionError, match="at most 16 files"):
        uploads.read(["a b.html"] * 17)
    with pytest.raises(ActionError, match="the server has no folder of uploads"):
        Uploads(None).read("a b.html")
