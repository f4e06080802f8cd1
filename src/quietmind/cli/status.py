"""``quietmind status``: what is indexed, how current that is, and what it takes on the disk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
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
    from quietmind.workspace.vector_sets import VectorSet

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
        found = archive.status(state.settings.embedder)
        copy = standing(archive, state.settings, allow_remote)
    if as_json:
        print_json(_as_json(found) | ({"copy": copy} if copy is not None else {}))
        return
    for each in found.roots:
        _print(each, found.vectors)
    for line in _vector_lines(found):
        click.echo(line)
    click.echo(f"notebooks: {found.notebooks_read:,} read, {found.notebooks_unread:,} never read")
    if copy is not None:
        click.echo(f"copy of the index: {shown_standing(copy)}")
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in found.bytes.items() if size)
    click.echo(f"on disk: {parts} in {shown_path(found.folder)}")


def _print(census: Census, vectors: Sequence[VectorSet]) -> None:
    kinds = _counts(census.kinds)
    click.echo(
        f"{shown_path(census.root)}: {counted(census.documents, 'note')}{f' ({kinds})' if kinds else ''}, "
        f"{counted(census.passages, 'passage')}{_letters(census)}"
    )
    if census.away is not None:
        click.echo(f"  away: {census.away}")
    click.echo(f"  {_standing(census)}")
    for each in vectors:
        if each.serves:
            click.echo(f"  with a vector: {each.below.get(census.root, 0):,} of {counted(census.passages, 'passage')}")
    if census.repaired:
        click.echo(f"  repaired in the index only: {counted(census.repaired, 'note')}")
    if census.encodings:
        click.echo(f"  not in UTF-8: {_counts(census.encodings)}")
    for skip in census.skipped[:_LISTED]:
        click.echo(f"  skipped: {shown_path(skip.path)}: {skip.reason}")
    if len(census.skipped) > _LISTED:
        click.echo(f"  and {len(census.skipped) - _LISTED:,} more skipped (--json lists all)")


def _vector_lines(found: Status) -> Iterator[str]:
    """Yield a line for each embedder's vectors, and one where searching them takes too long."""
    for each in found.vectors:
        share = f"{each.embedded:,} of {counted(found.passages, 'passage')}"
        if each.serves:
            yield f"vectors: {each.embedder} serves, {share}{_making(each, found.passages)}"
        elif each.wanted:
            yield f"vectors: {each.embedder} is made beside it, {share}{_making(each, found.passages)}"
        else:
            size = format_bytes(each.bytes)
            yield f"vectors: {each.embedder} serves no more, {size}: `quietmind embed --forget-old` removes it"
        if each.serves and each.too_large:
            yield f"vectors: {too_large(each.read)}"


def _making(vectors: VectorSet, passages: int) -> str:
    """Say whether vectors are being made, and how long what is missing takes at the pace of the last batch."""
    missing = passages - vectors.embedded
    if not missing:
        return ""
    left = f"about {shown_time(missing / vectors.pace)} left at {vectors.pace:,.1f} a second" if vectors.pace else ""
    if vectors.growing:
        return f", more are being made{f', {left}' if left else ''}"
    return f"{f', {left}' if left else ''}: quietmind embed"


def too_large(read: int) -> str:
    """Say that an exact search reads more than it should; ``read`` in bytes."""
    from quietmind.notes.nearest import ENOUGH_BYTES

    return (
        f"each search by meaning reads {format_bytes(read)}, past the {format_bytes(ENOUGH_BYTES)} where that stays "
        "below a second; an embedder with fewer numbers, or a copy of the index in Qdrant, is quicker"
    )


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
        "passages": found.passages,
        "vectors": [_vectors_json(each) for each in found.vectors],
    }


def _vectors_json(vectors: VectorSet) -> dict[str, Any]:
    return {
        "embedder": vectors.embedder,
        "embedded": vectors.embedded,
        "below": {str(root): number for root, number in vectors.below.items()},
        "complete": vectors.complete,
        "serves": vectors.serves,
        "wanted": vectors.wanted,
        "growing": vectors.growing,
        "per_second": None if vectors.pace is None else round(vectors.pace, 3),
        "bytes": vectors.bytes,
        "read_by_a_search": vectors.read,
        "too_large": vectors.too_large,
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
