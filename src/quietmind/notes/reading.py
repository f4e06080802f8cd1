"""From a file to a :class:`Document`: bytes, text, repair, structure."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from quietmind.base.errors import NotesError
from quietmind.base.paths import shown_path
from quietmind.base.units import MIB, format_bytes
from quietmind.notes import chat, encoding, formats, markdown, mojibake, plaintext
from quietmind.notes.document import Document, Kind
from quietmind.notes.formats.rendered import MAX_LINES

# Raise it when the same bytes come out as another document: indexes read their files again.
READER_VERSION = 1

MAX_FILE_BYTES = formats.LARGEST_TEXT
MARKDOWN_ENDINGS = frozenset({".md", ".markdown"})
TEXT_ENDINGS = frozenset({".pseudo", ".idea", ".txt"})
ENDINGS = MARKDOWN_ENDINGS | TEXT_ENDINGS | formats.ENDINGS

_ATTEMPTS = 3
_MAX_INODE = (1 << 63) - 1  # what an INTEGER column holds; some file systems use all 64 bits


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells, without reading it, that a file is still the one that was read. Times in nanoseconds."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """Return the state that ``status`` describes."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino & _MAX_INODE)


def read_document(path: Path) -> Document:
    """Read the note at ``path``. Raises NotesError when it cannot be read, is too large or is no such file."""
    data, _ = read_bytes(path)
    return parse(path, data)


def read_bytes(path: Path) -> tuple[bytes, FileState]:
    """Return the bytes of a regular file that is not too large, and its state while it held exactly these.

    Raises NotesError when it is none, cannot be read, or is being written to faster than it can be read.
    """
    most = largest(path.name)
    try:
        # O_NONBLOCK: opening a pipe that took the file's place must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            for _ in range(_ATTEMPTS):
                before = os.fstat(descriptor)
                if not stat.S_ISREG(before.st_mode):
                    raise NotesError(f"{shown_path(path)}: is not a regular file")
                if before.st_size > most:
                    raise NotesError(f"{shown_path(path)}: {too_large(before.st_size, path.name)}")
                os.lseek(descriptor, 0, os.SEEK_SET)
                data = _read_at_most(descriptor, most + 1)
                state = FileState.of(os.fstat(descriptor))
                if state == FileState.of(before) and len(data) == state.size:
                    return data, state
        finally:
            os.close(descriptor)
    except OSError as error:
        raise NotesError(f"{shown_path(path)}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # a NUL in the path
        raise NotesError(f"{shown_path(path)}: is not a file name ({error})") from error
    raise NotesError(f"{shown_path(path)}: keeps changing while it is read; try again when nothing writes to it")


def largest(name: str) -> int:
    """Return how many bytes a file called ``name`` may have."""
    form = formats.format_of(name)
    return MAX_FILE_BYTES if form is None else form.largest


def too_large(size: int, name: str = "") -> str:
    """Return why a file of ``size`` bytes, called ``name``, is not read."""
    return f"{format_bytes(size)} is more than the {format_bytes(largest(name))} that a note may have; split it"


def parse(path: Path, data: bytes) -> Document:
    """Return the document that ``data``, the content of ``path``, holds.

    Raises NotesError when it is no text or, of a file in another format, damaged, protected, or of a format whose
    reader is not installed; ReaderAway when it may be read another time.
    """
    if form := formats.format_of(path.name):
        return _in_format(form, path, data)
    try:
        text, encoded = encoding.decode(data)
    except NotesError as error:
        raise NotesError(f"{shown_path(path)}: {error}; it is left out") from error
    lines = encoding.split_lines(text)
    if len(lines) > MAX_LINES:
        raise NotesError(
            f"{shown_path(path)}: {len(lines):,} lines are more than the {MAX_LINES:,} that a note may have; split it"
        )
    lines, repairs = mojibake.repair(lines)
    title = _stem(path)
    if turns := chat.find_turns(lines):
        kind = Kind.CHAT
        found = chat.parse(lines, turns)
        lines, sections, blocks, links = found.lines, found.sections, found.blocks, found.links
        title = found.title or title
    elif path.suffix.lower() in MARKDOWN_ENDINGS:
        kind = Kind.MARKDOWN
        parsed = markdown.parse(lines)
        sections = tuple(markdown.sections(parsed.headings, 1, len(lines)))
        blocks, links = parsed.blocks, parsed.links
        first_level = (heading.text for heading in parsed.headings if heading.level == 1 and heading.text)
        title = parsed.front_title or next(first_level, title)
    else:
        kind = Kind.TEXT
        sections = tuple(markdown.sections((), 1, len(lines)))
        blocks = plaintext.outline(lines) if path.suffix.lower() == ".pseudo" else plaintext.paragraphs(lines)
        links = tuple(markdown.find_links(text, 1)) if "[[" in text else ()
    return Document(
        path=path.absolute(),
        kind=kind,
        title=title,
        encoding=encoded,
        lines=lines,
        sections=sections,
        blocks=blocks,
        links=links,
        repairs=repairs,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _in_format(form: formats.Format, path: Path, data: bytes) -> Document:
    """Return the document in a file that is no plain text. Raises NotesError."""
    try:
        rendered = formats.render(form, data, formats.ending_of(path.name))
        if len(rendered.lines) > MAX_LINES:
            raise NotesError(f"{len(rendered.lines):,} lines are more than the {MAX_LINES:,} that a note may have")
    except NotesError as error:
        raise type(error)(f"{shown_path(path)}: {error}; it is left out") from error
    return Document(
        path=path.absolute(),
        kind=form.kind,
        title=rendered.title or _stem(path),
        encoding=rendered.encoding,
        lines=rendered.lines,
        sections=rendered.sections,
        blocks=rendered.blocks,
        links=rendered.links,
        repairs=rendered.repairs,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _stem(path: Path) -> str:
    return os.fsencode(path.stem).decode("utf-8", "replace")  # a name need not be UTF-8, a title is text


def _read_at_most(descriptor: int, count: int) -> bytes:
    pieces: list[bytes] = []
    while count > 0 and (piece := os.read(descriptor, min(count, MIB))):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)
