"""Jupyter notebooks: the text and the code of their cells, and what these printed, in short."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from quietmind.base.errors import NotesError
from quietmind.notes import encoding
from quietmind.notes.formats.rendered import Rendered, clean, from_markdown
from quietmind.notes.formats.writing import Writer

_OUTPUT_LINES = 20  # of each output; the rest is more of the same, or a log
_OUTPUT_CHARS = 2000


def read(data: bytes, ending: str) -> Rendered:
    """Return the cells of a notebook (nbformat 3 to 5). Raises NotesError when it is none or holds no text."""
    text, _ = encoding.decode(data)
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotesError(f"is damaged, or no Jupyter notebook ({error})") from error
    if not isinstance(notebook, dict):
        raise NotesError("is no Jupyter notebook")
    writer = Writer()
    language = _language(notebook)
    for cell in _cells(notebook):
        source = _text(cell.get("source", cell.get("input")))
        match cell.get("cell_type"):
            case "markdown":
                writer.verbatim(clean(source).strip("\n").split("\n"))
            case "heading":  # nbformat 3
                level = cell.get("level")
                writer.heading(level if isinstance(level, int) else 1, source)
            case "code":
                writer.code(source, language)
                for output in _dicts(cell.get("outputs")):
                    writer.code(_shortened(_output(output)), "text")
            case "raw":
                writer.code(source, "text")
    if not any(line.strip() for line in writer.lines):
        raise NotesError("holds no text")
    return from_markdown(writer.lines)


def _cells(notebook: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from _dicts(notebook.get("cells"))
    for sheet in _dicts(notebook.get("worksheets")):  # nbformat 3
        yield from _dicts(sheet.get("cells"))


def _dicts(value: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, list):
        yield from (each for each in value if isinstance(each, dict))


def _text(value: object) -> str:
    """Return a text, which may be given as a list of its lines with their ends."""
    if isinstance(value, list):
        return "".join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""


def _language(notebook: Mapping[str, Any]) -> str:
    metadata = notebook.get("metadata")
    info = metadata.get("language_info") if isinstance(metadata, dict) else None
    name = info.get("name") if isinstance(info, dict) else None
    return name if isinstance(name, str) and name.isalnum() else ""


def _output(output: Mapping[str, Any]) -> str:
    """Return what an output says in words: printed, shown as text, or the last line of an error."""
    if output.get("output_type") in ("error", "pyerr"):
        return f"{_text(output.get('ename'))}: {_text(output.get('evalue'))}"
    shown = output.get("data")
    return _text(output.get("text")) or (_text(shown.get("text/plain")) if isinstance(shown, dict) else "")


def _shortened(text: str) -> str:
    lines = text.rstrip("\n").split("\n")
    short = "\n".join(lines[:_OUTPUT_LINES])[:_OUTPUT_CHARS]
    return short if len(short) == len("\n".join(lines)) else f"{short}\n…"
