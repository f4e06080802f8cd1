"""``quietmind doctor``: what hinders the program here, and what would make it faster."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quietmind.cli.options import State, debug_option, json_option, pass_state, workspace_option
from quietmind.cli.output import print_json, visible

if TYPE_CHECKING:
    from quietmind.workspace.doctor import Finding

_MARKS = {"fine": "ok", "better": "better", "hinders": "FIX"}


@click.command()
@json_option
@workspace_option
@debug_option
@pass_state
@click.pass_context
def doctor(ctx: click.Context, state: State, as_json: bool, workspace: Path) -> None:
    """Say what is installed, what hinders, and what would be faster, each with the command that mends it.

    Ends with 1 if something hinders, else with 0. Nothing is changed.
    """
    from quietmind.workspace.doctor import examine

    settings = state.settings
    findings = examine(workspace, settings.model, settings.threads)
    hindering = any(finding.level == "hinders" for finding in findings)
    if as_json:
        print_json({"hinders": hindering, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            click.echo(_line(finding))
    ctx.exit(1 if hindering else 0)


def _line(finding: Finding) -> str:
    fix = "" if finding.fix is None else f" -> {finding.fix}"
    return visible(f"{_MARKS[finding.level]:<7} {finding.subject}: {finding.text}{fix}")
