"""What the tools give back: records of the archive as JSON in the shapes of mcp_tools.py, bounded in size.

Whatever is cut or not listed is said in ``left_out``, never passed over. Text of notes only ever stands in string
values, so that a note cannot pretend to be a part of the result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quietmind.base.errors import UsageError
from quietmind.notes.dates import days_meant
from quietmind.notes.document import Hit, Kind
from quietmind.notes.facets import PassageFacets
from quietmind.notes.filtering import Filter
from quietmind.notes.language import Language
from quietmind.notes.linking import Edge, Place
from quietmind.serve.mcp_tools import LARGEST_TEXT, LONGEST_LIST
from quietmind.think.answer import Answer
from quietmind.think.telling import citation_as_json

if TYPE_CHECKING:
    from quietmind.workspace.notebook import Notebook
    from quietmind.workspace.workspace import Workspace

Json = dict[str, Any]

# How a byte of a file name that is no UTF-8 is written, which JSON could not carry otherwise.
_ODD_BYTE = re.compile(r"\\udc([89a-f][0-9a-f])")
_LONGEST_PASSAGE = 4000  # characters; only a line longer than most passages is longer
_LONGEST_LIST_TEXT = 1000  # characters of one entry in a list


def written(path: Path | str) -> str:
    """Return a path as text that any JSON can carry; :func:`meant` takes it back."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def meant(path: str) -> str:
    """Return the path that :func:`written` has written."""
    return _ODD_BYTE.sub(lambda found: chr(0xDC00 + int(found[1], 16)), path)


def filter_of(given: Mapping[str, Any]) -> Filter | None:
    """Return the filter of a search; None where nothing is filtered. Raises UsageError for what is no date."""
    today = date.today()  # a person's days are local ones
    within = Filter(
        folders=tuple(Path(meant(folder)) for folder in given.get("folders", ())),
        tags=tuple(given.get("tags", ())),
        languages=tuple(map(Language, given.get("languages", ()))),
        since=days_meant(given["since"], today)[0] if "since" in given else None,
        until=days_meant(given["until"], today)[1] if "until" in given else None,
        kinds=tuple(map(Kind, given.get("kinds", ()))),
        speakers=tuple(given.get("speakers", ())),
    )
    if any("\0" in str(folder) for folder in within.folders):
        raise UsageError("a folder holds a NUL, which no path does; give one that search has shown")
    return within if within != Filter() else None


def found(workspace: Workspace, given: Mapping[str, Any]) -> Json:
    """Return what a search finds. Raises what the search raises."""
    hits = workspace.search(given["query"], given.get("limit", 10), filter_of(given))
    facets = workspace.facets([hit.passage for hit in hits])
    shown: list[Json] = []
    room = LARGEST_TEXT
    for hit, of_passage in zip(hits, facets, strict=True):
        text = hit.passage.text[:_LONGEST_PASSAGE]
        if len(text) > room:
            break
        room -= len(text)
        shown.append(_passage(hit, of_passage, text))
    return {"passages": shown, "left_out": _more(len(hits) - len(shown), "passage", f"{LARGEST_TEXT:,} characters")}


def lines_read(workspace: Workspace, given: Mapping[str, Any]) -> Json:
    """Return lines of a note. Raises NotesError, and UsageError for lines that are none."""
    document = workspace.open_note(meant(given["path"]))
    count = len(document.lines)
    first, last = given.get("first_line", 1), min(given.get("last_line", count), count)
    if count and not 1 <= first <= count:
        raise UsageError(f"{written(document.path)}: has {count:,} lines; first_line {first:,} is past them")
    if count and last < first:
        raise UsageError(f"last_line {last:,} is before first_line {first:,}; exchange the two")
    end, left_out = _fitting(document.lines, first, last)
    text = document.text(first, end)
    return {
        "path": written(document.path),
        "title": document.title,
        "kind": document.kind.value,
        "first_line": first if count else 0,
        "last_line": end,
        "lines": count,
        "text": text[:LARGEST_TEXT],
        "left_out": left_out,
    }


def answered(answer: Answer, notices: Sequence[str]) -> Json:
    """Return an answer of the archive."""
    citations = answer.citations[:LONGEST_LIST]
    return {
        "found": answer.found,
        "answer": answer.text,
        "citations": [
            citation_as_json(each) | {"path": written(each.path), "quote": each.quote[:_LONGEST_LIST_TEXT]}
            for each in citations
        ],
        "unsupported": list(answer.unsupported),
        "disagreements": [list(pair) for pair in answer.disagreements],
        "notices": list(notices),
        "stopped_early": answer.stopped_early,
        "notebook": None if answer.notebook is None else answer.notebook.name,
        "model": answer.model,
        "left_out": _more(len(answer.citations) - len(citations), "citation", f"{LONGEST_LIST} citations"),
    }


def notebooks_listed(workspace: Workspace) -> Json:
    """Return the notebooks of the archive."""
    everything = workspace.notebooks.all()
    shown = everything[:LONGEST_LIST]
    return {
        "notebooks": [_notebook(each) for each in shown],
        "left_out": _more(len(everything) - len(shown), "notebook", f"{LONGEST_LIST} notebooks"),
    }


def links_of(workspace: Workspace, given: Mapping[str, Any]) -> Json:
    """Return where a note leads and what leads to it. Raises NotesError for a name that no note has."""
    linking = workspace.links()
    path = workspace.note_path(meant(given["path"]))
    leading, backlinks = linking.of(path), linking.to(path)
    left = [
        _more(len(leading) - LONGEST_LIST, "link", f"{LONGEST_LIST} links"),
        _more(len(backlinks) - LONGEST_LIST, "backlink", f"{LONGEST_LIST} backlinks"),
    ]
    return {
        "path": written(path),
        "links": [
            {
                "line": edge.source.line,
                "written": _cut(edge.written),
                "outcome": edge.outcome.value,
                "leads": [_place(place) for place in edge.leads[:LONGEST_LIST]],
            }
            for edge in leading[:LONGEST_LIST]
        ],
        "backlinks": [_backlink(edge) for edge in backlinks[:LONGEST_LIST]],
        "left_out": "; ".join(each for each in left if each) or None,
    }


def standing(workspace: Workspace, embedder: str | None, model: tuple[str, str]) -> Json:
    """Return what the archive holds; ``model`` is the one that answers, and what it is doing."""
    status = workspace.status(embedder)
    return {
        "folders": [
            {
                "path": written(each.root),
                "notes": each.documents,
                "passages": each.passages,
                "kinds": dict(each.kinds),
                "updated": None if each.updated is None else _moment(each.updated),
                "new": each.new,
                "changed": each.changed,
                "gone": each.gone,
                "skipped": len(each.skipped),
                "away": each.away,
            }
            for each in status.roots
        ],
        "vectors": [
            {"embedder": each.embedder, "passages": each.embedded, "serves": each.serves} for each in status.vectors
        ],
        "notebooks_read": status.notebooks_read,
        "notebooks_unread": status.notebooks_unread,
        "model": model[0],
        "model_state": model[1],
    }


def _passage(hit: Hit, facets: PassageFacets | None, text: str) -> Json:
    passage = hit.passage
    return {
        "path": written(passage.path),
        "first_line": passage.first_line,
        "last_line": passage.last_line,
        "title": passage.title,
        "headings": list(passage.heading),
        "speaker": passage.speaker,
        "said_at": passage.when,
        "kind": None if facets is None else facets.kind.value,
        "date": None if facets is None else facets.day.isoformat(),
        "text": text,
        "whole": len(text) == len(passage.text),
        "score": round(hit.score, 4),
    }


def _fitting(lines: Sequence[str], first: int, last: int) -> tuple[int, str | None]:
    """Return the last of the lines that fit in one result (one at least), and what was left out."""
    size = -1
    for number in range(first, last + 1):
        size += 1 + len(lines[number - 1])
        if size <= LARGEST_TEXT:
            continue
        if number == first:
            goes_on = f"; lines {first + 1:,} to {last:,} follow" if last > first else ""
            return first, f"line {first:,} has {size:,} characters, and {LARGEST_TEXT:,} of them are here{goes_on}"
        return number - 1, f"lines {number:,} to {last:,}: a result holds {LARGEST_TEXT:,} characters"
    return last, None


def _notebook(notebook: Notebook) -> Json:
    reading = notebook.reading
    return {
        "name": notebook.name,
        "made_of": written(f"{notebook.source.kind} {notebook.source.value}"),
        "notes": len({member.path for member in notebook.members}),
        "tokens": None if reading is None else reading.tokens,
        "read_at": None if reading is None else reading.when,
    }


def _backlink(edge: Edge) -> Json:
    return {"path": written(edge.source.path), "line": edge.source.line, "written": _cut(edge.written)}


def _place(place: Place) -> Json:
    return {"path": written(place.path), "line": place.line}


def _cut(text: str) -> str:
    return written(text if len(text) <= _LONGEST_LIST_TEXT else f"{text[:_LONGEST_LIST_TEXT]}…")


def _more(count: int, noun: str, most: str) -> str | None:
    """Say that ``count`` more were found than a result holds; None where there are none."""
    if count <= 0:
        return None
    return f"{count:,} more {noun}{'' if count == 1 else 's'}: a result holds {most}"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat("T", "seconds")
