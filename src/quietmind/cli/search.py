"""``quietmind search``: find passages."""

from __future__ import annotations

from pathlib import Path

import click

from quietmind.base.paths import shown_path
from quietmind.cli.options import debug_option, json_option, workspace_option
from quietmind.cli.output import flat, print_json, visible

_PREVIEW = 160


@click.command()
@click.argument("query")
@click.option("--limit", type=click.IntRange(1, 1000), default=10, show_default=True, help="Most passages to print.")
@click.option("--show", is_flag=True, help="Print whole passages.")
@json_option
@workspace_option
@debug_option
def search(query: str, limit: int, show: bool, as_json: bool, workspace: Path) -> None:
    """Find passages in the indexed notes."""
    from quietmind.workspace.workspace import Workspace

    with Workspace(workspace) as archive:
        hits = archive.search(query, limit)
    if as_json:
        print_json(
            [
                {
                    "path": str(hit.passage.path),
                    "first_line": hit.passage.first_line,
                    "last_line": hit.passage.last_line,
                    "score": round(hit.score, 4),
                    "text": hit.passage.text,
                    "title": hit.passage.title,
                    "heading": list(hit.passage.heading),
                    "coverage": round(hit.coverage, 3),
                }
                for hit in hits
            ]
        )
        return
    if not hits:
        click.echo("nothing found")
    for hit in hits:
        passage = hit.passage
        click.echo(
            f"{shown_path(passage.path)}:{passage.first_line}-{passage.last_line}  {visible(flat(passage.place))}"
        )
        if show:
            click.echo("\n".join(f"    {line}" for line in visible(passage.text).split("\n")) + "\n")
        else:
            preview = flat(passage.text)
            click.echo(f"    {visible(preview[:_PREVIEW])}{'…' if len(preview) > _PREVIEW else ''}")
