"""Notes in other formats than plain text: which there are, what each needs, and who reads it.

A reader is a module of this package with ``read(data, ending) -> Rendered``, which raises NotesError where the file is
damaged, protected or no such file; its message does not name the file. What others wrote to take hostile files apart
runs in a process of its own (:mod:`quietmind.notes.formats.apart`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from quietmind.base.errors import NotesError
from quietmind.base.units import MIB
from quietmind.notes.document import Kind
from quietmind.notes.formats.rendered import Rendered

INSTALL = "pip install 'quietmind[formats]'"
LARGEST_TEXT = 20 * MIB
_LARGEST_BOOK = 100 * MIB  # mostly pictures, which are never unpacked


@dataclass(frozen=True)
class Format:
    """A format: what people call it, how its files end, the module here that reads it, the packages that takes.

    ``packages`` maps what is imported to what is installed. ``apart``: it is read in a process of its own.
    ``own_lines``: the lines of the document are those of the file, and a person finds them by their numbers.
    """

    name: str
    kind: Kind
    endings: frozenset[str]
    reader: str
    packages: Mapping[str, str]
    apart: bool = True
    own_lines: bool = False
    largest: int = LARGEST_TEXT

    @property
    def missing(self) -> tuple[str, ...]:
        """The packages that are not installed."""
        return _missing(self.reader)


_LXML = {"lxml": "lxml"}
# The grammars that the makers of tree-sitter keep, each a small wheel; a pack of hundreds fetches them as it runs.
GRAMMARS: Mapping[str, tuple[str, str]] = {
    ".py": ("tree_sitter_python", "language"),
    ".js": ("tree_sitter_javascript", "language"),
    ".mjs": ("tree_sitter_javascript", "language"),
    ".jsx": ("tree_sitter_javascript", "language"),
    ".ts": ("tree_sitter_typescript", "language_typescript"),
    ".tsx": ("tree_sitter_typescript", "language_tsx"),
    ".rs": ("tree_sitter_rust", "language"),
    ".go": ("tree_sitter_go", "language"),
    ".java": ("tree_sitter_java", "language"),
    ".c": ("tree_sitter_c", "language"),
    ".h": ("tree_sitter_cpp", "language"),
    ".cc": ("tree_sitter_cpp", "language"),
    ".cpp": ("tree_sitter_cpp", "language"),
    ".hpp": ("tree_sitter_cpp", "language"),
    ".cs": ("tree_sitter_c_sharp", "language"),
    ".rb": ("tree_sitter_ruby", "language"),
    ".php": ("tree_sitter_php", "language_php"),
    ".sh": ("tree_sitter_bash", "language"),
}
_TREE_SITTER = {
    name: name.replace("_", "-") for name in ("tree_sitter", *sorted({module for module, _ in GRAMMARS.values()}))
}

FORMATS = (
    Format("PDF", Kind.PDF, frozenset({".pdf"}), "pdf", {"pypdfium2": "pypdfium2"}, largest=_LARGEST_BOOK),
    Format("Word", Kind.DOCX, frozenset({".docx"}), "docx", _LXML, largest=_LARGEST_BOOK),
    Format("EPUB", Kind.EPUB, frozenset({".epub"}), "epub", _LXML, largest=_LARGEST_BOOK),
    Format("HTML", Kind.HTML, frozenset({".html", ".htm", ".xhtml"}), "html", _LXML),
    Format("Jupyter", Kind.IPYNB, frozenset({".ipynb"}), "ipynb", {}),
    Format("Org", Kind.ORG, frozenset({".org"}), "org", {}, apart=False, own_lines=True),
    Format("source code", Kind.CODE, frozenset(GRAMMARS), "code", _TREE_SITTER, own_lines=True),
)
_BY_ENDING = {ending: form for form in FORMATS for ending in form.endings}
ENDINGS = frozenset(_BY_ENDING)


def format_of(name: str) -> Format | None:
    """Return the format of the file called ``name``, by its ending; None where it is plain text or none of ours."""
    return _BY_ENDING.get(ending_of(name))


def ending_of(name: str) -> str:
    """Return how ``name`` ends, in small letters, with its dot."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - making Paths would be most of the time of a walk


def versions_of(ending: str) -> str:
    """Return the packages that read files with this ending, with their versions; empty where it takes none.

    Another version may make another document of the same file.
    """
    form = _BY_ENDING.get(ending)
    return _versions(form.reader) if form is not None else ""


def place_in_source(name: str, heading: Sequence[str]) -> str | None:
    """Return where in a file called ``name`` a person finds what stands under ``heading``; None where by its lines.

    Of a PDF that is the page, of others the headings.
    """
    form = format_of(name)
    if form is None or form.own_lines or not heading:
        return None
    return heading[-1] if form.kind is Kind.PDF else " > ".join(heading)


def render(form: Format, data: bytes, ending: str) -> Rendered:
    """Return ``data``, a file of the format ``form`` that ends with ``ending``, as lines.

    Raises NotesError, whose message says what is wrong but not where, when it is damaged, protected or no such file,
    or when what reads it is not installed; ReaderAway when it may be read another time.
    """
    if form.missing:
        raise NotesError(f"{form.name} is read by {', '.join(form.missing)}, not installed: {INSTALL}")
    if form.apart:
        from quietmind.notes.formats.apart import render_apart

        return render_apart(data, ending)
    return read_here(data, ending)


def read_here(data: bytes, ending: str) -> Rendered:
    """Return what the reader of ``ending`` makes of ``data``, in this process. Raises NotesError."""
    reader = import_module(f"{__name__}.{_BY_ENDING[ending].reader}")
    rendered: Rendered = reader.read(data, ending)
    return rendered


@cache
def _missing(reader: str) -> tuple[str, ...]:
    return tuple(package for module, package in _of(reader).packages.items() if find_spec(module) is None)


@cache
def _versions(reader: str) -> str:
    versions = []
    for package in sorted(set(_of(reader).packages.values())):
        with suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    return ", ".join(versions)


def _of(reader: str) -> Format:
    return next(form for form in FORMATS if form.reader == reader)
