"""Files whose readers are not installed: told of once for each format, and left in the index as they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from quietmind.notes.formats import FORMATS, INSTALL, format_of
from quietmind.notes.scan import Found, Skipped


def without_unread(root: Path, files: Sequence[Found]) -> tuple[list[Found], list[Skipped]]:
    """Return those of ``files``, below ``root``, that can be read, and one line for each format that cannot."""
    if not any(form.missing for form in FORMATS):
        return list(files), []
    counts: Counter[str] = Counter()
    readable: list[Found] = []
    for found in files:
        form = format_of(found.path)
        if form is not None and form.missing:
            counts[form.name] += 1
        else:
            readable.append(found)
    return readable, [Skipped(root, _reason(name, count)) for name, count in sorted(counts.items())]


def _reason(name: str, count: int) -> str:
    return f"{name}, {count:,} {'file' if count == 1 else 'files'}: what reads it is not installed: {INSTALL}"
