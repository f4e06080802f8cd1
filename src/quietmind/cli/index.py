"""``quietmind index``: bring the index up to date."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quietmind.base.errors import NotesError, UsageError
from quietmind.base.paths import shown_path
from quietmind.base.progress import terminal_progress
from quietmind.cli.elsewhere import CopyKept
from quietmind.cli.options import AnyPath, State, debug_option, json_option, workspace_option
from quietmind.cli.output import counted, print_json

if TYPE_CHECKING:
    from quietmind.base.settings import Settings
    from quietmind.notes.report import Report

_LISTED = 10  # files of each sort that are printed


@click.command()
@click.argument("folder", required=False, type=AnyPath())
@click.option("--forget", is_flag=True, help="Take the notes of FOLDER out of the index; the files stay.")
@click.option("--allow-remote", multiple=True, metavar="HOST", help="Consent that a copy of the index is kept there.")
@json_option
@workspace_option
@debug_option
@click.pass_context
def index(
    ctx: click.Context,
    folder: Path | None,
    forget: bool,
    allow_remote: tuple[str, ...],
    as_json: bool,
    workspace: Path,
) -> None:
    """Bring the index of FOLDER up to date; without FOLDER, of every folder that was indexed before.

    Only what changed is read again. The notes themselves are never written to.
    """
    if forget:
        _forget(folder, workspace, as_json=as_json)
        failures: list[str] = []
    else:
        failures = _update_one(folder, workspace, as_json) if folder else _update_all(workspace, as_json)
    failures += _copy(workspace, ctx.ensure_object(State).settings, allow_remote, as_json)
    for failure in failures:
        click.echo(f"quietmind: {failure}", err=True)
    if failures:
        ctx.exit(1)


def _copy(workspace: Path, settings: Settings, allow_remote: tuple[str, ...], as_json: bool) -> list[str]:
    """Bring the copy of the index up to date, if there is to be one; return what was wrong with it."""
    from quietmind.workspace.workspace import Workspace

    with Workspace(workspace) as archive, terminal_progress() as progress:
        said, failure = CopyKept(archive, settings, allow_remote).bring_up_to_date(progress)
    if said and not as_json:
        click.echo(said)
    return [failure] if failure else []


def _forget(folder: Path | None, workspace: Path, *, as_json: bool) -> None:
    from quietmind.workspace.workspace import Workspace

    if folder is None:
        raise UsageError("which folder is to be forgotten? write: quietmind index FOLDER --forget")
    with Workspace(workspace) as archive:
        forgotten = archive.forget(folder)
    if as_json:
        print_json({"root": str(forgotten.root), "removed": forgotten.removed, "kept": forgotten.kept})
        return
    kept = f" ({forgotten.kept:,} below other indexed folders stay)" if forgotten.kept else ""
    click.echo(f"{shown_path(forgotten.root)}: forgotten, {counted(forgotten.removed, 'note')} removed{kept}")


def _update_one(folder: Path, workspace: Path, as_json: bool) -> list[str]:
    """Update the index of ``folder`` and print the report; return what was wrong with it, none or one line."""
    from quietmind.notes.scan import real_folder
    from quietmind.workspace.workspace import Workspace

    try:
        real_folder(folder)
    except NotesError:
        if not Workspace.exists(workspace):
            raise  # no workspace is made for a name that was only mistyped
    with Workspace(workspace, create=True) as archive, terminal_progress() as progress:
        report = archive.index(folder, progress)
    if as_json:
        print_json(_as_json(report))
    else:
        _print(report)
    return _all_skipped(report)


def _update_all(workspace: Path, as_json: bool) -> list[str]:
    """Update the index of every known folder and print the reports; return a line for each that went wrong."""
    from quietmind.workspace.workspace import Workspace

    done: list[Report | tuple[Path, NotesError]] = []
    with Workspace(workspace) as archive, terminal_progress() as progress:
        roots = archive.roots()
        if not roots:
            raise NotesError("no folder has been indexed yet; name one: quietmind index FOLDER")
        for root in roots:
            try:
                done.append(archive.index(root, progress))
            except NotesError as error:  # a disk that is not there must not keep the other folders from their update
                done.append((root, error))
    failures: list[str] = []
    printed: list[dict[str, Any]] = []
    for one in done:
        if isinstance(one, tuple):
            root, refusal = one
            failures.append(str(refusal))
            printed.append({"root": str(root), "error": str(refusal)})
            continue
        failures += _all_skipped(one)
        printed.append(_as_json(one))
        if not as_json:
            _print(one)
    if as_json:
        print_json(printed)
    return failures


def _all_skipped(report: Report) -> list[str]:
    if report.added + report.changed + report.unchanged or not report.skipped:
        return []
    return [f"{shown_path(report.root)}: nothing there could be read, all was skipped; the report says why"]


def _print(report: Report) -> None:
    notes = report.added + report.changed + report.unchanged
    click.echo(
        f"{shown_path(report.root)}: {counted(notes, 'note')} ({report.added:,} added, {report.changed:,} changed, "
        f"{report.removed:,} removed, {report.unchanged:,} unchanged), {counted(report.passages, 'passage')} written "
        f"in {report.seconds:.1f} s"
    )
    _list(
        f"repaired in the index only: {shown_path(file.path)}: {counted(file.lines, 'line')} of UTF-8 once read as "
        f"{file.codec}"
        for file in report.repaired
    )
    _list(f"read as {other.encoding}: {shown_path(other.path)}" for other in report.other_encodings)
    _list(f"skipped: {shown_path(skip.path)}: {skip.reason}" for skip in report.skipped)


def _list(lines: Iterable[str]) -> None:
    """Print the first lines, and how many more there are."""
    rest = iter(lines)
    for line in islice(rest, _LISTED):
        click.echo(f"  {line}")
    if more := sum(1 for _ in rest):
        click.echo(f"  and {more:,} more (--json lists all)")


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
