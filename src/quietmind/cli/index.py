"""``quietmind index``: bring the index up to date."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quietmind.base.errors import NotesError
from quietmind.base.paths import shown_path
from quietmind.base.progress import terminal_progress
from quietmind.cli.options import debug_option, json_option, workspace_option
from quietmind.cli.output import counted, print_json

if TYPE_CHECKING:
    from quietmind.notes.index import Report


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@json_option
@workspace_option
@debug_option
def index(folder: Path | None, as_json: bool, workspace: Path) -> None:
    """Bring the index of FOLDER up to date; without FOLDER, of every folder that was indexed before.

    Only what changed is read again. The notes themselves are never written to.
    """
    from quietmind.workspace.workspace import Workspace

    with Workspace(workspace, create=folder is not None) as archive, terminal_progress() as progress:
        folders = [folder] if folder else archive.roots()
        if not folders:
            raise NotesError("no folder has been indexed yet; name one: quietmind index FOLDER")
        reports = [archive.index(root, progress) for root in folders]
    if as_json:
        print_json(_as_json(reports[0]) if folder else [_as_json(report) for report in reports])
        return
    for report in reports:
        _print(report)


def _print(report: Report) -> None:
    notes = report.added + report.changed + report.unchanged
    click.echo(
        f"{shown_path(report.root)}: {counted(notes, 'note')} ({report.added:,} added, {report.changed:,} changed, "
        f"{report.removed:,} removed, {report.unchanged:,} unchanged), {counted(report.passages, 'passage')} written "
        f"in {report.seconds:.1f} s"
    )
    for file in report.repaired:
        lines = counted(file.lines, "line")
        click.echo(f"  repaired in the index only: {shown_path(file.path)}: {lines} of UTF-8 once read as {file.codec}")
    for other in report.other_encodings:
        click.echo(f"  read as {other.encoding}: {shown_path(other.path)}")
    for skip in report.skipped:
        click.echo(f"  skipped: {shown_path(skip.path)}: {skip.reason}")


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "root": str(report.root),
        "added": report.added,
        "changed": report.changed,
        "removed": report.removed,
        "unchanged": report.unchanged,
        "passages": report.passages,
        "repaired": [{"path": str(file.path), "lines": file.lines, "codec": file.codec} for file in report.repaired],
        "encodings": [{"path": str(other.path), "encoding": other.encoding} for other in report.other_encodings],
        "skipped": [{"path": str(skip.path), "reason": skip.reason} for skip in report.skipped],
        "seconds": round(report.seconds, 3),
    }
