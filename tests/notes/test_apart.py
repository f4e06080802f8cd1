"""PDFs, and the process that hostile files are read in: whatever happens to it, the file is skipped with a line."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietmind.base.errors import NotesError, ReaderAway
from quietmind.notes import formats
from quietmind.notes.document import Kind
from quietmind.notes.formats import child, read_here
from quietmind.notes.formats.apart import Apart
from quietmind.notes.passages import passages
from quietmind.notes.reading import parse

BREAKING = """
import sys
from quietmind.base.errors import NotesError, ReaderAway
from quietmind.notes.formats import child, rendered

def read(data, ending):
    exec(data.decode(), {})
    return rendered.Rendered((data.decode(),), (), ())

child.read_here = read
child.SECONDS = 1
child.main()
"""


def pdf(*pages: list[str], outline: tuple[str, int] | None = None, lock: bool = False) -> bytes:
    """Return a PDF written by hand: each page lines of Latin text; ``outline``: a title and the page it leads to."""
    objects: list[bytes] = [b"<< /Type /Catalog /Pages 2 0 R" + (b" /Outlines 4 0 R" if outline else b"") + b" >>", b""]
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    objects += [b"<< /Type /Outlines /First 5 0 R /Last 5 0 R >>", b""] if outline else []
    kids = []
    for lines in pages:
        shown = " ".join(f"({line}) Tj 0 -14 Td" for line in lines)
        content = f"BT /F1 12 Tf 72 720 Td {shown} ET".encode()
        objects.append(b"<< /Length %d >> stream\n%s\nendstream" % (len(content), content))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % len(objects)
        )
        kids.append(len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(b"%d 0 R" % kid for kid in kids), len(kids))
    if outline:
        target = b"/Dest [%d 0 R /Fit]" % kids[outline[1] - 1]
        objects[4] = b"<< /Title (%s) /Parent 4 0 R %s >>" % (outline[0].encode(), target)
    out = bytearray(b"%PDF-1.7\n")
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    locked = b" /Encrypt << /Filter /Standard /V 1 /R 2 /O (%s) /U (%s) /P -4 >>" % (b"o" * 32, b"u" * 32)
    out += b"trailer << /Size %d /Root 1 0 R%s /ID [(a) (b)] >>\n" % (len(objects) + 1, locked if lock else b"")
    out += b"startxref\n%d\n%%%%EOF\n" % start
    return bytes(out)


def test_the_pages_of_a_pdf_are_sections_that_a_citation_names() -> None:
    found = parse(
        Path("/notes/manual.pdf"), pdf(["The pump starts at six.", "It stops at noon."], ["The valve leaks."])
    )
    assert found.kind is Kind.PDF
    assert found.lines == ("The pump starts at six.", "It stops at noon.", "The valve leaks.")
    assert [(s.first_line, s.last_line, s.heading) for s in found.sections] == [
        (1, 2, ("page 1",)),
        (3, 3, ("page 2",)),
    ]
    assert [passage.place for passage in passages(found)] == ["manual > page 1", "manual > page 2"]


def test_the_outline_of_a_pdf_gives_headings_from_the_line_that_says_them() -> None:
    found = read_here(
        pdf(["Cover"], ["The end of it.", "2 The valve", "Text"], ["More"], outline=("The valve", 2)), ".pdf"
    )
    assert [(s.first_line, s.heading) for s in found.sections] == [
        (1, ("page 1",)),
        (2, ("page 2",)),
        (3, ("The valve", "page 2")),
        (5, ("The valve", "page 3")),
    ]


def test_what_stands_above_and_below_every_page_is_left_out() -> None:
    found = read_here(pdf(*(["Pump manual", f"Text {'abcdef'[n]}.", f"page {n} of 6"] for n in range(6))), ".pdf")
    assert found.lines == tuple(f"Text {letter}." for letter in "abcdef")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (pdf(["x"], lock=True), "password"),
        (pdf([]), "no text, only pictures"),
        (b"%PDF-1.7 and no more", "damaged, or no PDF"),
    ],
)
def test_a_pdf_that_cannot_be_read_says_why(data: bytes, says: str) -> None:
    with pytest.raises(NotesError, match=says):
        read_here(data, ".pdf")


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_damaged_pdf_is_a_document_or_an_error_of_ours(data: st.DataObject) -> None:
    damaged = bytearray(pdf(["one", "two"], ["three"]))
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(damaged)))
        damaged[at : at + data.draw(st.integers(0, 12))] = data.draw(st.binary(max_size=12))
    try:
        found = parse(Path("/notes/a.pdf"), bytes(damaged))  # apart: it may end the process that reads it
    except NotesError:
        return
    assert all(passage.heading[-1].startswith("page ") for passage in passages(found))


# The process -----------------------------------------------------------------------------------------------


@pytest.fixture
def breaking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Apart]:
    """A reader whose process runs the file that it is given as Python, within one second of processor time."""
    (tmp_path / "breaking.py").write_text(BREAKING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(child, "__name__", "breaking")
    apart = Apart(patience=120)
    yield apart
    apart.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of processor time and memory on Windows")
@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("while True: pass", "takes more than"),
        ("bytearray(1 << 40)", "more memory"),
        ("import os; os.abort()", "broke down"),
        ("import os; os._exit(0)", "broke down"),
        ("f = lambda: f()\nf()", "nested deeper"),
        ("raise KeyError('a')", "damaged"),
        ("import os; os.write(3, b'nonsense\\n'); os._exit(0)", "broke down"),
    ],
)
def test_a_parser_that_breaks_down_costs_its_file_only(breaking: Apart, file: str, says: str) -> None:
    for _ in range(2):  # as the first file of a process, and as a later one
        with pytest.raises(NotesError, match=says):
            breaking.render(file.encode(), ".x")
        with pytest.raises(NotesError, match="damaged"):  # the next is read as ever: it is no document, and says so
            breaking.render(b"raise ValueError", ".x")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")
def test_a_reader_that_others_killed_says_nothing_about_the_file(breaking: Apart) -> None:
    with pytest.raises(ReaderAway, match="was killed"):
        breaking.render(b"import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ".x")


def test_a_reader_that_does_not_start_says_nothing_about_the_file(
    breaking: Apart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(ReaderAway, match="does not start"):
        breaking.render(b"", ".x")


def test_a_process_that_answers_nothing_is_ended(breaking: Apart) -> None:
    breaking._patience = 3.0
    began = time.monotonic()
    with pytest.raises(NotesError, match="takes more than"):
        breaking.render(b"import time; time.sleep(600)", ".x")
    assert time.monotonic() - began < 300


def test_a_process_that_was_killed_between_files_is_started_again() -> None:
    apart = Apart()
    data = pdf(["text"])
    assert apart.render(data, ".pdf").lines == ("text",)
    assert apart._process is not None
    os.kill(apart._process.pid, signal.SIGKILL)
    apart._process.wait()
    assert apart.render(data, ".pdf").lines == ("text",)
    apart.close()


def test_a_format_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    formats._missing.cache_clear()
    try:
        with pytest.raises(
            NotesError, match=r"a\.pdf: PDF is read by pypdfium2, not installed: pip install 'quietmind\["
        ):
            parse(Path("/notes/a.pdf"), b"%PDF")
    finally:
        formats._missing.cache_clear()
