"""A session's training trace as upstream's own classes read it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import msgspec

from openenv_async.gateway.exports import training_trace
from tests.gateway.test_exports import played

_READ = """
import json, sys
from openenv.core.harness import TrainingTrace
with open(sys.argv[1]) as file:
    trace = TrainingTrace.model_validate_json(file.read())
entries = trace.to_trace_entries()
again = TrainingTrace.from_entries(entries)
assert again == trace
print(json.dumps({
    "version": trace.schema_version,
    "turns": [turn.node_id for turn in trace.turns],
    "marked": [sum(turn.loss_mask) for turn in trace.turns],
    "sampled": [len(turn.completion_token_ids) for turn in trace.turns],
}))
"""


def test_upstream_reads_a_trace(upstream_python: str, tmp_path: Path) -> None:
    trace = training_trace(played().records, relations=("main", "title"))
    path = tmp_path / "trace.json"
    path.write_bytes(msgspec.json.encode(trace))
    command = [upstream_python, "-c", _READ, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told == {
        "version": 1,
        "turns": ["s-0", "s-1", "s-2"],
        "marked": told["sampled"],
        "sampled": [len(turn["completion_token_ids"]) for turn in trace["turns"]],
    }
