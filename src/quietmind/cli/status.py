"""``quietmind status``: what is indexed, how current that is, and what it takes on the disk."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quietmind.base.paths import shown_path
from quietmind.base.units import format_bytes
from quietmind.cli.amounts import shown_time
from quietmind.cli.elsewhere import shown_standing, standing
from quietmind.cli.options import State, debug_option, json_option, pass_state, workspace_option
from quietmind.cli.output import counted, print_json

if TYPE_CHECKING:
    from quietmind.notes.census import Census
    from quietmind.workspace.status import Status

_LISTED = 10  # skipped files of a folder that are printed


@click.command()
@click.option("--allow-remote", multiple=True, metavar="HOST", help="Consent that a copy of the index is asked there.")
@json_option
@workspace_option
@debug_option
@pass_state
def status(state: State, allow_remote: tuple[str, ...], as_json: bool, workspace: Path) -> None:
    """Say what is indexed of each folder, what is skipped and why, and how current that is. Writes nothing."""
    from quietmind.workspace.workspace import Workspace

    with Workspace(workspace) as archive:
        found = archive.status()
        copy = standing(archive, state.settings, allow_remote)
    if as_json:
        print_json(_as_json(found) | ({"copy": copy} if copy is not None else {}))
        return
    for each in found.roots:
        _print(each)
    click.echo(f"notebooks: {found.notebooks_read:,} read, {found.notebooks_unread:,} never read")
    if copy is not None:
        click.echo(f"copy of the index: {shown_standing(copy)}")
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in found.bytes.items() if size)
    click.echo(f"on disk: {parts} in {shown_path(found.folder)}")


def _print(census: Census) -> None:
    kinds = _counts(census.kinds)
    click.echo(
        f"{shown_path(census.root)}: {counted(census.documents, 'note')}{f' ({kinds})' if kinds else ''}, "
        f"{counted(census.passages, 'passage')}{_letters(census)}"
    )
    if census.away is not None:
        click.echo(f"  away: {census.away}")
    click.echo(f"  {_standing(census)}")
    if census.repaired:
        click.echo(f"  repaired in the index only: {counted(census.repaired, 'note')}")
    if census.encodings:
        click.echo(f"  not in UTF-8: {_counts(census.encodings)}")
    for skip in census.skipped[:_LISTED]:
        click.echo(f"  skipped: {shown_path(skip.path)}: {skip.reason}")
    if len(census.skipped) > _LISTED:
        click.echo(f"  and {len(census.skipped) - _LISTED:,} more skipped (--json lists all)")


def _letters(census: Census) -> str:
    """Return ``, letters 61% Cyrillic and 39% Latin``: that is counted, where a language would be a guess."""
    shares = [f"{share:.0%} {script.capitalize()}" for script, share in census.letters.items()]
    return f", letters {' and '.join(shares)}" if shares else ""


def _standing(census: Census) -> str:
    """Say when the index was last held against the files, and what became of them since."""
    if census.updated is None:
        age = "updated by an older version"
    else:
        ago = time.time() - census.updated
        age = (
            f"updated {shown_time(ago)} ago" if ago >= 0 else "updated in the future, by the clock that was right then"
        )
    if census.away is not None:
        return age
    behind = {"new": census.new, "changed": census.changed, "gone": census.gone}
    if not any(behind.values()):
        return f"{age}, current"
    since = ", ".join(f"{number:,} {what}" for what, number in behind.items() if number)
    return f"{age}, since then {since}: quietmind index {shown_path(census.root)}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items())


def _as_json(found: Status) -> dict[str, Any]:
    return {
        "workspace": str(found.folder),
        "roots": [_census_json(each) for each in found.roots],
        "notebooks": {"read": found.notebooks_read, "unread": found.notebooks_unread},
        "bytes": dict(found.bytes),
    }


def _census_json(census: Census) -> dict[str, Any]:
    return {
        "root": str(census.root),
        "documents": census.documents,
        "passages": census.passages,
        "kinds": dict(census.kinds),
        "letters": {script: round(share, 4) for script, share in census.letters.items()},
        "repaired": census.repaired,
        "encodings": dict(census.encodings),
        "updated": None
        if census.updated is None
        else datetime.fromtimestamp(census.updated, UTC).isoformat("T", "seconds"),
        "new": census.new,
        "changed": census.changed,
        "gone": census.gone,
        "skipped": [{"path": str(skip.path), "reason": skip.reason} for skip in census.skipped],
        "away": census.away,
    }
