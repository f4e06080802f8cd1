"""The records of the archive. Line numbers are 1-based and inclusive, as editors and citations count them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    """What a file of notes turned out to be."""

    MARKDOWN = "markdown"
    CHAT = "chat"
    TEXT = "text"
    PDF = "pdf"
    DOCX = "docx"
    EPUB = "epub"
    HTML = "html"
    IPYNB = "ipynb"
    ORG = "org"
    CODE = "code"

    @property
    def plain(self) -> bool:
        """Whether the lines are no Markdown, and what would be a mark there is one of the text's own."""
        return self in (Kind.TEXT, Kind.PDF, Kind.ORG, Kind.CODE)


@dataclass(frozen=True)
class Repair:
    """A line whose text had been decoded wrongly once. The file keeps its bytes; only the index sees ``after``."""

    line: int
    codec: str  # the encoding that the UTF-8 bytes had been mistaken for, e.g. "mac_roman"
    before: str
    after: str


@dataclass(frozen=True)
class Link:
    """A reference from one note to another, ``[[Target#Heading|label]]``; ``![[Target]]`` shows it in place."""

    line: int
    target: str
    heading: str | None = None
    label: str | None = None
    embed: bool = False


@dataclass(frozen=True)
class Section:
    """A stretch of a document under one heading, or such a stretch of one turn of a chat.

    ``heading`` is the path from the outermost heading down; ``speaker`` ("user", "assistant" or what the export calls
    it) and ``when`` (ISO, to the minute) only for turns. ``uid`` sets a turn, or a page, apart from its neighbours: no
    passage reaches over both. The sections of a document follow each other without gaps from its first line to its
    last.
    """

    first_line: int
    last_line: int
    heading: tuple[str, ...]
    speaker: str | None = None
    when: str | None = None
    uid: str | None = None


class Form(StrEnum):
    """What a block of lines is, as far as it matters for cutting."""

    HEADING = "heading"
    PARAGRAPH = "paragraph"
    LIST = "list"
    TABLE = "table"
    CODE = "code"
    MARK = "mark"  # lines of an export that are no one's words: who spoke, where a turn ends


@dataclass(frozen=True, slots=True)
class Block:
    """Lines that belong together; blank lines around them are not part of it.

    ``cuts`` are lines before which the block may be cut if it is too large to stay whole: the items of a list, the
    rows of a table.
    """

    first_line: int
    last_line: int
    form: Form
    cuts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Document:
    """A file of notes as the index sees it.

    ``lines`` has one entry for every line of the file, in order, decoded, repaired and freed of the quote marks
    that wrap a chat export: ``lines[n - 1]`` is what line ``n`` says. Of a file that is no text itself (PDF, DOCX,
    EPUB, HTML, ipynb) they are those of its text as we write it down, always the same for the same bytes. ``blocks``
    hold every line that is not blank, in order, and none reaches across the end of a section. ``sha256`` is of the
    file's bytes.
    """

    path: Path
    kind: Kind
    title: str
    encoding: str
    lines: tuple[str, ...]
    sections: tuple[Section, ...]
    blocks: tuple[Block, ...]
    links: tuple[Link, ...]
    repairs: tuple[Repair, ...]
    sha256: str

    def text(self, first_line: int, last_line: int) -> str:
        """Return lines ``first_line`` to ``last_line``, both included, joined by newlines."""
        return "\n".join(self.lines[first_line - 1 : last_line])


@dataclass(frozen=True)
class Passage:
    """A piece of a document that is found, shown and cited as one.

    ``path`` is absolute. ``text`` is exactly ``document.text(first_line, last_line)``.
    """

    path: Path
    first_line: int
    last_line: int
    text: str
    title: str
    heading: tuple[str, ...] = ()
    speaker: str | None = None
    when: str | None = None

    @property
    def place(self) -> str:
        """Title and headings for people, outermost first: ``Pumps > Start``."""
        return " > ".join(dict.fromkeys([self.title, *self.heading]))


@dataclass(frozen=True)
class Hit:
    """A passage that answers a query.

    ``score`` orders the hits of one query, higher is better, and means nothing across queries. ``coverage`` is
    between 0 and 1: the share of the query's weight (inverse document frequency of its lemmas) found here.
    ``similarity`` is the cosine of the vectors of both, None where the passage was not found by them; ``crossed`` the
    same for a passage that was found from the other language, without what tells the languages apart.
    """

    passage: Passage
    score: float
    coverage: float
    similarity: float | None = None
    crossed: float | None = None
