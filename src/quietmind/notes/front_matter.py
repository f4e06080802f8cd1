"""What stands between the marks at the head of a Markdown note, as far as it says anything about the note.

Of YAML only what people write there: ``key: value``, ``key: [one, two]``, and a list with a dash a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_MARK = re.compile(r"---\s*")
_END = re.compile(r"(?:---|\.\.\.)\s*")
_KEY = re.compile(r"([^\W\d][\w -]*?)[ \t]*:(?:[ \t]+(.*)|[ \t]*)")
_ITEM = re.compile(r"[ \t]*-[ \t]+(.*)")


def front_matter(lines: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Return the values of each key at the head of ``lines``, by the key in lower case; a plain value is one.

    Nothing where the first line does not open a front matter, or no line closes it. Nested keys are left out.
    """
    if not lines or not _MARK.fullmatch(lines[0]):
        return {}
    found: dict[str, list[str]] = {}
    key = ""
    for line in lines[1:]:
        if _END.fullmatch(line):
            return {name: tuple(values) for name, values in found.items()}
        if match := _KEY.fullmatch(line):
            key = match[1].lower()
            found[key] = _values(match[2] or "")
        elif key and (item := _ITEM.fullmatch(line)):
            found[key] += [value] if (value := _unquoted(item[1])) else []
        elif line[:1] not in (" ", "\t", "", "#"):
            key = ""
    return {}


def _values(written: str) -> list[str]:
    written = written.strip()
    parts = written[1:-1].split(",") if written.startswith("[") and written.endswith("]") else [written]
    return [value for part in parts if (value := _unquoted(part))]


def _unquoted(written: str) -> str:
    value = written.strip()
    return value[1:-1].strip() if len(value) > 1 and value[0] in "\"'" and value[-1] == value[0] else value
