"""Which passages a search may find: below a folder, with a tag, in a language, of a time, of a kind, said by someone.

Every condition holds for both legs of a search before anything is ranked, so that a narrow filter still finds its ten.
"""

from __future__ import annotations

import difflib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from pathlib import Path

from quietmind.base.errors import UsageError
from quietmind.base.paths import shown_path
from quietmind.base.sqlite import translated
from quietmind.notes import facets
from quietmind.notes.document import Kind
from quietmind.notes.language import Language
from quietmind.notes.tags import normal

Given = tuple[str | bytes | int, ...]

_PASSAGES = "SELECT facets.passage FROM facets JOIN documents ON documents.id = facets.document WHERE "
_NOTES = "SELECT count(DISTINCT facets.document) FROM facets JOIN documents ON documents.id = facets.document WHERE "
_COUNT = "SELECT count(*) FROM "
_IS_TAGGED = "facets.document IN (SELECT document FROM tags WHERE tag = ? OR (tag >= ? AND tag < ?))"
# Times in nanoseconds since 1970 that SQLite's integers hold, with a day to spare on either side.
_FIRST_DAY, _LAST_DAY = date(1700, 1, 1), date(2262, 1, 1)
_CLOSE = 3  # names that are proposed in the place of an unknown one


@dataclass(frozen=True)
class Filter:
    """What a passage must be for a search to find it; without any condition, every passage is found.

    Its note lies in one of ``folders`` (or is one of them), bears all of ``tags`` and is of one of ``kinds``; it is in
    one of ``languages`` (notes/language.py), and was said by one of ``speakers``. ``since`` and ``until`` are its first
    and last day, in local time: the day it was said, else what its note says (notes/dates.py), else of its file.
    """

    folders: tuple[Path, ...] = ()
    tags: tuple[str, ...] = ()
    languages: tuple[Language, ...] = ()
    since: date | None = None
    until: date | None = None
    kinds: tuple[Kind, ...] = ()
    speakers: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Condition:
    """One condition: in words, and as SQL over ``facets`` and ``documents``."""

    shown: str
    sql: str
    given: Given


def chosen(within: Filter | None) -> tuple[str, Given]:
    """Return the SELECT of the passages that ``within`` leaves, and its parameters; "" for all passages."""
    conditions = list(_conditions(within)) if within is not None else []
    return _where(_PASSAGES, conditions) if conditions else ("", ())


def passages_within(connection: sqlite3.Connection, within: Filter | None) -> list[int] | None:
    """Return the numbers of the passages that ``within`` leaves, in order; None where that is all."""
    query, given = chosen(within)
    return [passage for (passage,) in connection.execute(f"{query} ORDER BY 1", given)] if query else None


def count_within(connection: sqlite3.Connection, within: Filter | None) -> int:
    """Return how many passages ``within`` leaves."""
    query, given = chosen(within)
    counted = f"({query})" if query else "passages"
    (count,) = connection.execute(_COUNT + counted, given).fetchone()
    return int(count)


def settled(connection: sqlite3.Connection, within: Filter) -> Filter:
    """Return ``within`` in the archive's own words: whole paths, tags as they are kept, speakers as they are written.

    A folder is looked for from the current one, then from the indexed ones. Raises UsageError for a folder without
    notes, a tag or speaker that nobody uses, and where no note is left; and as search does.
    """
    with translated(Path(connection.execute("PRAGMA database_list").fetchone()[2] or "archive")):
        if within.since and within.until and within.since > within.until:
            raise UsageError(f"since {within.since} until {within.until}: ends before it begins; exchange the two")
        settled = replace(
            within,
            folders=tuple(_folder(connection, folder) for folder in within.folders),
            tags=tuple(_tag(connection, tag) for tag in within.tags),
            speakers=tuple(name for speaker in within.speakers for name in _speakers(connection, speaker)),
        )
        conditions = list(_conditions(settled))
        if conditions and not _any_passage(connection, conditions):
            raise UsageError(_none_left(connection, conditions))
    return settled


def _conditions(within: Filter) -> Iterator[_Condition]:
    if within.folders:
        shown = " or ".join(shown_path(folder) for folder in within.folders)
        yield _any_of(f"in {shown}", [_below(folder) for folder in within.folders])
    for tag in within.tags:
        yield _Condition(f"tagged #{tag}", _IS_TAGGED, (tag, f"{tag}/", f"{tag}0"))
    if within.languages:
        has = "instr(' ' || facets.languages || ' ', ?)"
        yield _any_of(
            f"in the language {' or '.join(within.languages)}",
            [(has, (f" {language} ",)) for language in within.languages],
        )
    if within.since:
        sql = "CASE WHEN facets.day IS NULL THEN documents.mtime_ns >= ? ELSE facets.day >= ? END"
        yield _Condition(f"since {within.since}", sql, (_midnight_ns(within.since), within.since.isoformat()))
    if within.until:
        sql = "CASE WHEN facets.day IS NULL THEN documents.mtime_ns < ? ELSE facets.day <= ? END"
        yield _Condition(f"until {within.until}", sql, (_midnight_ns(within.until, 1), within.until.isoformat()))
    if within.kinds:
        yield _any_of(
            f"of kind {' or '.join(within.kinds)}", [("documents.kind = ?", (kind.value,)) for kind in within.kinds]
        )
    if within.speakers:
        yield _any_of(
            f"said by {' or '.join(within.speakers)}", [("facets.speaker = ?", (name,)) for name in within.speakers]
        )


def _any_of(shown: str, alternatives: Sequence[tuple[str, Given]]) -> _Condition:
    sql = " OR ".join(sql for sql, _ in alternatives)
    return _Condition(shown, sql, tuple(value for _, given in alternatives for value in given))


def _where(select: str, conditions: Sequence[_Condition]) -> tuple[str, Given]:
    sql = " AND ".join(f"({condition.sql})" for condition in conditions)
    return select + sql, tuple(value for condition in conditions for value in condition.given)


def _below(folder: Path) -> tuple[str, Given]:
    whole = os.fsencode(folder)
    inside = whole.rstrip(b"/") + b"/"
    return "documents.path = ? OR (documents.path >= ? AND documents.path < ?)", (whole, inside, inside[:-1] + b"0")


def _midnight_ns(day: date, after: int = 0) -> int:
    """Return when ``day``, or as many days ``after`` it, begins here, in nanoseconds since 1970."""
    begins = datetime.combine(min(max(day, _FIRST_DAY), _LAST_DAY) + timedelta(days=after), time())
    return int(begins.timestamp()) * 1_000_000_000


def _folder(connection: sqlite3.Connection, folder: Path) -> Path:
    """Return the path of ``folder`` in the archive."""
    roots = [Path(os.fsdecode(path)) for (path,) in connection.execute("SELECT path FROM roots ORDER BY path")]
    try:
        meant = [Path(os.path.realpath(folder)), Path(os.path.abspath(folder))]  # noqa: PTH100 - links stay as written
    except (OSError, ValueError) as error:  # the current folder is gone, or a NUL in the name
        raise UsageError(f"{shown_path(folder)}: is not a folder name ({error}); write the path in full") from error
    if not folder.is_absolute():
        meant += [Path(os.path.normpath(root / folder)) for root in roots]
    for path in meant:
        if _any_passage(connection, [_any_of("", [_below(path)])]):
            return path
    indexed = ", ".join(map(shown_path, roots))
    if any(path.is_relative_to(root) for path in meant for root in roots):
        raise UsageError(f"{shown_path(folder)}: holds no indexed note; indexed are: {indexed}")
    raise UsageError(f"{shown_path(folder)}: is outside of the archive; indexed are: {indexed}")


def _tag(connection: sqlite3.Connection, written: str) -> str:
    """Return the tag ``written`` as it is kept."""
    tag = normal(written)
    if _any_passage(connection, [_Condition("", _IS_TAGGED, (tag, f"{tag}/", f"{tag}0"))]):
        return tag
    known = [name for (name,) in connection.execute("SELECT DISTINCT tag FROM tags ORDER BY tag")]
    close = ", ".join(f"#{name}" for name in difflib.get_close_matches(tag, known, _CLOSE))
    hint = f"close to it: {close}" if close else f"there are {len(known):,} others"
    raise UsageError(f"no indexed note bears the tag #{tag or written}; {hint}{_unread(connection)}")


def _speakers(connection: sqlite3.Connection, written: str) -> list[str]:
    """Return the speakers whose name is ``written``, however its letters are cased."""
    rows = connection.execute("SELECT DISTINCT speaker FROM facets WHERE speaker IS NOT NULL ORDER BY speaker")
    known = [speaker for (speaker,) in rows]
    if names := [speaker for speaker in known if speaker.casefold() == written.strip().casefold()]:
        return names
    hint = f"those who do: {', '.join(known[:10])}" if known else "no chat is indexed"
    raise UsageError(f"nobody called {written!r} speaks in the indexed notes; {hint}")


def _any_passage(connection: sqlite3.Connection, conditions: Sequence[_Condition]) -> bool:
    query, given = _where(_PASSAGES, conditions)
    return connection.execute(f"{query} LIMIT 1", given).fetchone() is not None


def _none_left(connection: sqlite3.Connection, conditions: Sequence[_Condition]) -> str:
    """Say how many notes each of ``conditions``, which leave none together, leaves alone."""
    counts: list[str] = []
    for condition in conditions:
        query, given = _where(_NOTES, [condition])
        (count,) = connection.execute(query, given).fetchone()
        counts.append(f"{condition.shown}: {count:,} {'note' if count == 1 else 'notes'}")
    together = ", together none; drop a condition" if len(counts) > 1 else "; widen it"
    return f"nothing is left to search in: {', '.join(counts)}{together}{_unread(connection)}"


def _unread(connection: sqlite3.Connection) -> str:
    count = facets.unread(connection)
    return f"; {count:,} notes were indexed before there were filters: run `quietmind index`" if count else ""
