"""A certificate as JSON and as a page."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from openenv_async.checks.certify import Certificate
from openenv_async.checks.certify.report import as_html, as_json
from openenv_async.checks.registry import Result

MADE = Certificate(
    target="quiz:Quiz",
    results=(
        Result("the_oracle_solves_it", "server", "passed"),
        Result("nonsense_scores_at_chance", "server", "failed", "paid <b>1</b>", "do & mend"),
        Result("skill_is_paid", "server", "skipped", "no skills"),
    ),
    figures={"the_oracle_solves_it": "1 (of 32 episodes)"},
    name="<quiz>",
    version="1.2",
    digest="ab" * 32,
    params={"size": 3},
    made_at=0.0,
    made_by="9.9",
)


def test_as_json_it_carries_the_digest_of_the_rest() -> None:
    read: dict[str, Any] = json.loads(as_json(MADE))
    digest = read.pop("digest")
    assert hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest() == digest
    assert read["verdict"] == "failed"
    assert read["counts"] == {"passed": 1, "failed": 1, "not shown": 1}
    assert read["made_at"] == "1970-01-01T00:00:00+00:00"
    assert read["environment"]["version"] == "1.2"
    assert [line["result"] for line in read["lines"]] == ["passed", "failed", "not shown"]
    assert read["lines"][0]["figure"] == "1 (of 32 episodes)"


def test_the_page_escapes_what_others_said_and_fetches_nothing() -> None:
    page = as_html(MADE)
    assert "Certificate of &lt;quiz&gt;: failed" in page
    assert "paid &lt;b&gt;1&lt;/b&gt;" in page
    assert "do &amp; mend" in page
    assert "ab" * 32 in page
    for word in ("<script", "http://", "https://", "src=", "<quiz>"):
        assert word not in page
