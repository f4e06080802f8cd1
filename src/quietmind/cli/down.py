"""``quietmind down``: ends what `quietmind up` keeps running."""

from __future__ import annotations

from pathlib import Path

import click

from quietmind.cli.options import debug_option, json_option, workspace_option
from quietmind.cli.output import print_json


@click.command()
@json_option
@workspace_option
@debug_option
def down(as_json: bool, workspace: Path) -> None:
    """End the `quietmind up` of this workspace, and wait until it and its engines are gone."""
    from quietmind.workspace.running import end, find

    running = find(workspace)
    by_itself = running is None or end(workspace, running)
    if as_json:
        models = [] if running is None else list(running.models)
        print_json({"ended": running is not None, "models": models, "killed": not by_itself})
    elif running is None:
        click.echo("nothing was running")
    else:
        forced = "" if by_itself else " (it did not end by itself, and was killed)"
        click.echo(f"ended {', '.join(running.models) or 'it'} at {running.url}{forced}")
