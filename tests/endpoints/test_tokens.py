"""Access tokens: what they may hold and where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openenv_async.endpoints.tokens import TOKEN_VARIABLE, check_token, find_token, read_token

GOOD = ["x", "!", "~", "+-", "a" * 4096, "eyJ.a-b_c~/+="]
BAD = ["", " ", "a b", "a,b", "é", "a\n", "\x7f", "a" * 4097]


@pytest.mark.parametrize("token", GOOD)
def test_visible_ascii_without_commas_is_a_token(token: str) -> None:
    assert check_token(token) is token


@pytest.mark.parametrize("token", BAD)
def test_other_text_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match="a token is 1 to 4096 visible ASCII") as caught:
        check_token(token)
    if len(token) > 3:
        assert token not in str(caught.value)


@pytest.mark.parametrize("token", [None, b"x", 3])
def test_another_type_is_refused_by_name(token: Any) -> None:
    with pytest.raises(TypeError, match=f"got a value of type {type(token).__name__}"):
        check_token(token)


def test_a_file_holds_one_word(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("\n secret \n")
    assert read_token(path) == "secret"
    assert read_token(str(path)) == "secret"


@pytest.mark.parametrize("content", [b"", b"two words", b"\xff\xfe", "sécret".encode()])
def test_a_file_without_one_is_named_and_its_content_is_not_shown(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="holds no token") as caught:
        read_token(path)
    assert str(path) in str(caught.value)
    assert "words" not in str(caught.value)
    assert not isinstance(caught.value.__cause__, UnicodeDecodeError)
    with pytest.raises(FileNotFoundError):
        read_token(tmp_path / "missing")


def test_the_file_counts_more_than_the_variable(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("of-file")
    assert find_token(path, {TOKEN_VARIABLE: "of-variable"}) == "of-file"
    assert find_token(None, {TOKEN_VARIABLE: " of-variable "}) == "of-variable"
    assert find_token(None, {}) is None


@pytest.mark.parametrize("value", ["", "two words"])
def test_a_variable_without_one_is_named(value: str) -> None:
    with pytest.raises(ValueError, match=r"^OPENENV_TOKEN: a token is 1 to"):
        find_token(None, {TOKEN_VARIABLE: value})
