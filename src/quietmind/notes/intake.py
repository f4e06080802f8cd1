"""What one file of notes gives the index: read and taken apart, ready to be written. No database is touched."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path

from quietmind import __version__
from quietmind.base.errors import NotesError, ReaderAway
from quietmind.base.paths import shown_path
from quietmind.notes.document import Document, Passage
from quietmind.notes.facets import FACETS_VERSION, Facets, find_facets
from quietmind.notes.formats import versions_of
from quietmind.notes.lemmas import LEMMA_VERSION, lemma_text
from quietmind.notes.linked import LinkRows, link_rows
from quietmind.notes.links import LINKS_VERSION, find_links
from quietmind.notes.passages import CUTTER_VERSION, passages
from quietmind.notes.reading import READER_VERSION, FileState, parse, read_bytes
from quietmind.notes.scan import Skipped

# FAT counts time in steps of 2 s: a file touched later than that before it was read may change and look the same.
SETTLED_AFTER_NS = 2_000_000_000


@dataclass(frozen=True)
class Wanted:
    """A file to read. ``sha256`` is of the bytes that the index holds as this version reads them, if it does."""

    path: str
    sha256: str | None = None


@dataclass(frozen=True)
class Taken:
    """A file that was read. ``document`` is without its text, which stands in ``passages``; it had ``lines``.

    ``lemmas`` has those of title, headings and text of each passage. ``settled``: the file was old enough for an
    unchanged state to prove unchanged content.
    """

    document: Document
    lines: int
    state: FileState
    settled: bool
    passages: tuple[Passage, ...]
    lemmas: tuple[tuple[str, str, str], ...]
    links: LinkRows
    facets: Facets


@dataclass(frozen=True)
class Same:
    """A file that looked changed and holds the bytes that the index knows."""

    state: FileState
    settled: bool
    sha256: str


@dataclass(frozen=True)
class Refused:
    """A file that was read and is no note: what it holds, not the moment, is why."""

    path: str
    state: FileState
    settled: bool
    reason: str


def made_by(ending: str) -> str:
    """Return the versions of all that stands between a file with this ending (formats.ending_of) and its rows.

    A document that was made by others is read again.
    """
    ours = (
        f"reader {READER_VERSION}, cutter {CUTTER_VERSION}, lemmas {LEMMA_VERSION}, links {LINKS_VERSION}, "
        f"facets {FACETS_VERSION}"
    )
    theirs = versions_of(ending)
    return f"{ours}, {theirs}" if theirs else ours


def refused_by(ending: str) -> str:
    """Return the versions of all that may have refused a file with this ending; others look at it again."""
    return f"quietmind {__version__}, {made_by(ending)}"


def take(wanted: Wanted) -> Taken | Same | Refused | Skipped:
    """Read the file and take it apart."""
    path = Path(wanted.path)
    opened_ns = time.time_ns()
    try:
        data, state = read_bytes(path)
    except NotesError as error:
        return Skipped(path, _reason(error, path), transient=True)
    settled = opened_ns - max(state.mtime_ns, state.ctime_ns) > SETTLED_AFTER_NS
    if wanted.sha256 is not None and wanted.sha256 == hashlib.sha256(data).hexdigest():
        return Same(state, settled, wanted.sha256)
    try:
        document = parse(path, data)
    except ReaderAway as error:
        return Skipped(path, _reason(error, path), transient=True)
    except NotesError as error:
        return Refused(wanted.path, state, settled, _reason(error, path))
    cut = passages(document)
    title = lemma_text(f"{document.title}\n{path.name}")
    return Taken(
        document=replace(document, lines=(), blocks=(), sections=(), links=()),
        lines=len(document.lines),
        state=state,
        settled=settled,
        passages=cut,
        lemmas=tuple((title, lemma_text("\n".join(p.heading)), lemma_text(p.text)) for p in cut),
        links=link_rows(find_links(document)),
        facets=find_facets(document, cut),
    )


def _reason(error: NotesError, path: Path) -> str:
    return str(error).removeprefix(f"{shown_path(path)}: ")
