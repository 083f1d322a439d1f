"""Tests mirror the package by name."""

from __future__ import annotations

from pathlib import Path

from tests.mirror import LONGEST_WITHOUT, modules_without, test_file

MISSING = frozenset(
    [
        "openenv_async/arrays/ext.py",
        "openenv_async/arrays/tags.py",
        "openenv_async/arrays/typed.py",
        "openenv_async/benchmarking/chaos/audit.py",
        "openenv_async/benchmarking/chaos/faults.py",
        "openenv_async/benchmarking/chaos/playing.py",
        "openenv_async/benchmarking/chaos/proxy.py",
        "openenv_async/benchmarking/chaos/run.py",
        "openenv_async/benchmarking/load.py",
        "openenv_async/benchmarking/run.py",
        "openenv_async/benchmarking/usage.py",
        "openenv_async/building/credentials.py",
        "openenv_async/building/pip_settings.py",
        "openenv_async/building/progress.py",
        "openenv_async/building/scaffold.py",
        "openenv_async/building/space_files.py",
        "openenv_async/building/stream.py",
        "openenv_async/checks/validation/candidate.py",
        "openenv_async/checks/validation/episodes.py",
        "openenv_async/checks/validation/inspection.py",
        "openenv_async/checks/validation/run.py",
        "openenv_async/checks/validation/seeds.py",
        "openenv_async/checks/validation/timing.py",
        "openenv_async/cli/bench.py",
        "openenv_async/cli/build.py",
        "openenv_async/cli/conformance.py",
        "openenv_async/cli/demo.py",
        "openenv_async/cli/doctor.py",
        "openenv_async/cli/forms.py",
        "openenv_async/cli/info.py",
        "openenv_async/cli/listing.py",
        "openenv_async/cli/options.py",
        "openenv_async/cli/playing.py",
        "openenv_async/cli/push.py",
        "openenv_async/cli/replay.py",
        "openenv_async/cli/rollout.py",
        "openenv_async/cli/serve.py",
        "openenv_async/cli/validate.py",
        "openenv_async/client/channel.py",
        "openenv_async/client/env.py",
        "openenv_async/client/http.py",
        "openenv_async/client/http_replies.py",
        "openenv_async/client/http_session.py",
        "openenv_async/client/inbox.py",
        "openenv_async/client/launch.py",
        "openenv_async/client/loop_thread.py",
        "openenv_async/client/models.py",
        "openenv_async/client/outbox.py",
        "openenv_async/client/refusals.py",
        "openenv_async/client/seats.py",
        "openenv_async/client/server_info.py",
        "openenv_async/client/sync.py",
        "openenv_async/client/upstream.py",
        "openenv_async/client/websocket.py",
        "openenv_async/endpoints/tokens.py",
        "openenv_async/environment.py",
        "openenv_async/errors.py",
        "openenv_async/integrations/gymnasium/env.py",
        "openenv_async/integrations/gymnasium/rows.py",
        "openenv_async/integrations/gymnasium/settings.py",
        "openenv_async/integrations/gymnasium/spaces.py",
        "openenv_async/integrations/gymnasium/vector.py",
        "openenv_async/integrations/trl/action_tool.py",
        "openenv_async/integrations/trl/formats.py",
        "openenv_async/integrations/trl/generation.py",
        "openenv_async/integrations/trl/masking.py",
        "openenv_async/integrations/trl/rewards.py",
        "openenv_async/integrations/trl/rollouts.py",
        "openenv_async/integrations/trl/rows.py",
        "openenv_async/integrations/trl/shared.py",
        "openenv_async/integrations/trl/tools.py",
        "openenv_async/models/choices.py",
        "openenv_async/models/codec.py",
        "openenv_async/models/decoding.py",
        "openenv_async/models/encoding.py",
        "openenv_async/models/foreign.py",
        "openenv_async/models/inspection.py",
        "openenv_async/models/pydantic.py",
        "openenv_async/models/schema.py",
        "openenv_async/models/unknown_fields.py",
        "openenv_async/pool/dispatch.py",
        "openenv_async/pool/sync.py",
        "openenv_async/pool/settings.py",
        "openenv_async/pool/sources.py",
        "openenv_async/pool/statistics.py",
        "openenv_async/pool/sync.py",
        "openenv_async/pool/workers.py",
        "openenv_async/protocol/upstream.py",
        "openenv_async/providers/base.py",
        "openenv_async/providers/docker/address.py",
        "openenv_async/providers/docker/attachment.py",
        "openenv_async/providers/docker/body.py",
        "openenv_async/providers/docker/calls.py",
        "openenv_async/providers/docker/engine.py",
        "openenv_async/providers/docker/images.py",
        "openenv_async/providers/docker/options.py",
        "openenv_async/providers/docker/owner.py",
        "openenv_async/providers/docker/provider.py",
        "openenv_async/providers/docker/reaper.py",
        "openenv_async/providers/docker/reaper_client.py",
        "openenv_async/providers/docker/removals.py",
        "openenv_async/providers/docker/starting.py",
        "openenv_async/providers/docker/sweep.py",
        "openenv_async/providers/docker/watch.py",
        "openenv_async/providers/docker/worker.py",
        "openenv_async/responders/base.py",
        "openenv_async/responders/loading.py",
        "openenv_async/rollouts/options.py",
        "openenv_async/rollouts/responding.py",
        "openenv_async/rollouts/sessions.py",
        "openenv_async/rollouts/sources.py",
        "openenv_async/rollouts/trajectory.py",
        "openenv_async/rollouts/versions.py",
        "openenv_async/spec.py",
        "openenv_async/targets/in_process.py",
        "openenv_async/targets/manifest.py",
        "openenv_async/targets/owning.py",
        "openenv_async/targets/resolve.py",
        "openenv_async/targets/served.py",
        "openenv_async/telemetry/logs.py",
        "openenv_async/telemetry/tracing.py",
        "openenv_async/testing.py",
        "openenv_async/types.py",
    ]
)
"""Modules that still have none. The list only shrinks."""


def test_every_module_has_a_test_file_of_its_name() -> None:
    found = {str(module) for module, _ in modules_without()}
    assert sorted(found - MISSING) == [], "`python -m tests.mirror` says where they belong"


def test_a_module_and_its_test_file() -> None:
    assert test_file(Path("openenv_async/pool/sync.py")) == Path("tests/pool/test_sync.py")
    assert test_file(Path("openenv_async/errors.py")) == Path("tests/test_errors.py")


def test_what_has_none_is_found(tmp_path: Path) -> None:
    package, tests = tmp_path / "openenv_async" / "pool", tmp_path / "tests" / "pool"
    package.mkdir(parents=True)
    tests.mkdir(parents=True)
    long = "x = 1\n" * (LONGEST_WITHOUT + 1)
    for name in ("tested.py", "untested.py", "__init__.py"):
        (package / name).write_text(long)
    (package / "short.py").write_text("x = 1\n" * LONGEST_WITHOUT)
    (tests / "test_tested.py").write_text("")
    found = list(modules_without(tmp_path))
    assert found == [(Path("openenv_async/pool/untested.py"), LONGEST_WITHOUT + 1)]
