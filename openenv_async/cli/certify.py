"""``openenv-async certify``: whether an environment is fit to be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openenv_async.cli.findings import Findings, names_option, quiet_option
from openenv_async.cli.options import (
    SECONDS,
    examples,
    import_from_here,
    param_option,
    token_option,
)
from openenv_async.cli.output import echo
from openenv_async.cli.targets import resolved, target_argument

if TYPE_CHECKING:
    from openenv_async.certification import Certification
    from openenv_async.checks.certify import Certificate

__all__ = ["certify"]


def _lines() -> Mapping[str, Any]:
    from openenv_async.checks.certify import CHECKS

    return CHECKS


@click.command(
    epilog=examples(
        "certify ./my_env",
        "certify coding --json --out coding.json --html coding.html",
        "certify gymnasium --param id=CartPole-v1 --episodes 16",
        "certify http://127.0.0.1:8000 --declaration my_env.claims:CERTIFICATION",
        "certify repl --line the_oracle_solves_it --line nonsense_scores_at_chance",
    )
)
@target_argument(default=".")
@click.option(
    "--declaration",
    metavar="MODULE:NAME",
    help="The Certification of the environment, in place of its own.",
)
@names_option("line", _lines)
@click.option(
    "--episodes",
    default=32,
    show_default=True,
    type=click.IntRange(4, 100_000),
    help="Episodes of each policy; more where a mean is near its limit.",
)
@click.option(
    "--seconds",
    default=20.0,
    show_default=True,
    type=SECONDS,
    help="Seconds for those beyond --episodes, of one policy.",
)
@click.option(
    "--timeout", default=30.0, show_default=True, type=SECONDS, help="Seconds for one call."
)
@click.option(
    "--concurrency",
    default=16,
    show_default=True,
    type=click.IntRange(1, 1024),
    help="Episodes at once.",
)
@token_option
@param_option
@click.option("--json", "as_json", is_flag=True, help="Print the certificate as JSON.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write it as JSON to this file."
)
@click.option(
    "--html",
    "page",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it as a page to this file.",
)
@quiet_option
def certify(
    target: str | list[str],
    declaration: str | None,
    names: tuple[str, ...] | None,
    token: str | None,
    params: dict[str, Any],
    as_json: bool,
    out: Path | None,
    page: Path | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Test whether the environment TARGET is fit to be trained on.

    Its oracle must solve it; doing nothing, random actions, constants and a panel of cheats must
    score at chance; rewards must lie in their range and belong to steps; answers must stay hidden,
    seeds decide, and nothing stay behind. A line that cannot be tested is "not shown".

    TARGET is a folder with an openenv.yaml (by default this one), an installed name, module:Class,
    an image, or the URL of a server, upstream's included.

    Exit codes: 0 passed; 1 a line failed, the environment is not shown to be solved, or no server
    answers; 2 a wrong value.
    """
    from openenv_async.checks.certify import certify as test_all
    from openenv_async.checks.certify.report import as_html
    from openenv_async.checks.certify.report import as_json as text_of
    from openenv_async.cli.playing import run

    findings = Findings("not shown", quiet)
    certificate: Certificate = run(
        test_all(
            resolved(target, params, token, "certify"),
            declaration=None if declaration is None else _declared(declaration),
            names=names,
            on_result=None if as_json else findings.show,
            **options,
        )
    )
    if out is not None:
        out.write_text(text_of(certificate), encoding="utf-8")
    if page is not None:
        page.write_text(as_html(certificate), encoding="utf-8")
    if as_json:
        echo(text_of(certificate), nl=False)
    else:
        findings.clear()
        counts = certificate.plain()["counts"]
        told = ", ".join(f"{number} {word}" for word, number in counts.items())
        echo(f"{certificate.verdict}: {told}; {certificate.digest_of} {certificate.digest[:16]}")
    if not certificate.is_passed:
        click.get_current_context().exit(1)


def _declared(text: str) -> Certification:
    from openenv_async.certification import Certification
    from openenv_async.errors import TargetNotFound
    from openenv_async.targets.discovery import import_object

    import_from_here()
    try:
        found: Any = import_object(text)
    except TargetNotFound as exc:
        raise click.BadParameter(exc.message, param_hint="--declaration") from exc
    if not isinstance(found, Certification):
        raise click.BadParameter(
            f"{text} is a {type(found).__name__}, not a Certification", param_hint="--declaration"
        )
    return found
