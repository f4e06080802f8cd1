"""Notes in other formats: what of a file becomes lines, headings and titles, and what is said of a damaged one."""

from __future__ import annotations

import io
import json
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quietmind.base.errors import NotesError
from quietmind.notes import formats
from quietmind.notes.document import Document, Form, Kind, Link
from quietmind.notes.formats import read_here, zipped
from quietmind.notes.formats.rendered import Rendered
from quietmind.notes.formats.wire import pack, unpack
from quietmind.notes.formats.writing import LONGEST_LINE, broken
from quietmind.notes.passages import passages
from quietmind.notes.reading import parse

PAGE = """<!DOCTYPE html><html><head><meta charset="{charset}">
<title>Насосы</title><script>alert(1)</script></head><body><nav><a href="/">Меню</a></nav><h1>Насосы</h1>
<p>Первый <b>абзац</b> со <a href="other.html#x">ссылкой</a> и <a href="https://example.org">сайтом</a>.</p>
<ul><li>раз<ul><li>внутри</li></ul></li><li>два</li></ul>
<table><tr><th>A<th>B</tr><tr><td>1<td>2|3</tr></table>
<pre># не заголовок
  def f(): pass</pre>
<p># тоже нет</p><p>1. и не список</p><div hidden>скрыто</div>
<table><tr><td><h2>Старт</h2><code>start_pump</code> открывает клапан.</td></tr></table></body></html>"""


def page(ending: str, data: bytes) -> Document:
    return parse(Path("/notes") / f"note{ending}", data)


def headings(found: Document | Rendered) -> list[tuple[str, ...]]:
    return [section.heading for section in found.sections]


def zip_of(members: dict[str, str | bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


# HTML ----------------------------------------------------------------------------------------------------


def test_a_page_is_read_as_its_text_with_headings_lists_tables_and_code() -> None:
    found = read_here(PAGE.format(charset="utf-8").encode(), ".html")
    assert found.title == "Насосы"
    assert "\n".join(found.lines) == (
        "# Насосы\n\nПервый абзац со [ссылкой](other.html#x) и сайтом.\n\n- раз\n    - внутри\n- два\n\n"
        "| A | B |\n| --- | --- |\n| 1 | 2\\|3 |\n\n```\n# не заголовок\n  def f(): pass\n```\n\n"
        "\\# тоже нет\n\n1\\. и не список\n\n## Старт\n\n`start_pump` открывает клапан."
    )
    assert headings(found) == [("Насосы",), ("Насосы", "Старт")]


def test_a_page_is_read_in_the_encoding_that_it_declares() -> None:
    found = read_here(PAGE.format(charset="windows-1251").encode("cp1251"), ".html")
    assert found.encoding == "cp1251"
    assert found.lines == read_here(PAGE.format(charset="utf-8").encode(), ".html").lines


def test_a_page_that_was_converted_and_still_declares_what_it_was_is_read_as_it_is() -> None:
    found = read_here(PAGE.format(charset="windows-1251").encode(), ".html")
    assert (found.encoding, found.lines[0]) == ("utf-8", "# Насосы")


def test_a_page_without_a_declaration_is_read_in_the_likeliest_encoding() -> None:
    text = "<p>Насос открывает клапан утром, и вода идёт в бак.</p>"
    assert read_here(text.encode("koi8-r"), ".html").lines == (text[3:-4],)


def test_elements_that_xhtml_closes_where_they_open_swallow_nothing() -> None:
    data = b"<?xml version='1.0'?><html><head><title/><script/></head><body><p>One<a id='x'/>two</p></body></html>"
    assert read_here(data, ".xhtml").lines == ("Onetwo",)


def test_an_entity_that_grows_without_end_does_not() -> None:
    bomb = "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>" + "".join(
        f"<!ENTITY {chr(98 + n)} '{f'&{chr(97 + n)};' * 10}'>" for n in range(12)
    )
    found = read_here(f"{bomb}]><html><body><p>text &m;</p></body></html>".encode(), ".xhtml")
    assert sum(map(len, found.lines)) < 2000


def test_a_page_without_text_says_so() -> None:
    with pytest.raises(NotesError, match="no text"):
        read_here(b"<html><script>only this</script></html>", ".html")


# EPUB ----------------------------------------------------------------------------------------------------

CONTAINER = '<container><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>'
PACKAGE = """<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:title>Полив</dc:title></metadata><manifest>
<item id="n" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="two" href="text/two%20b.xhtml" media-type="application/xhtml+xml"/>
<item id="one" href="text/one.xhtml" media-type="application/xhtml+xml"/></manifest>
<spine><itemref idref="n"/><itemref idref="one"/><itemref idref="two"/></spine></package>"""


def book(**more: str) -> dict[str, str | bytes]:
    return {
        "META-INF/container.xml": CONTAINER,
        "OPS/book.opf": PACKAGE,
        "OPS/nav.xhtml": "<html><body><p>Содержание</p></body></html>",
        "OPS/text/one.xhtml": "<html><head><title/></head><body><h1>Первая</h1><p>Насос.</p></body></html>",
        "OPS/text/two b.xhtml": "<html><body><h1>Вторая</h1><p>Клапан.</p></body></html>",
        **more,
    }


def test_a_book_is_read_in_the_order_of_its_spine() -> None:
    found = read_here(zip_of(book()), ".epub")
    assert found.title == "Полив"
    assert [line for line in found.lines if line] == ["# Первая", "Насос.", "# Вторая", "Клапан."]


def test_a_protected_book_says_so_and_one_with_hidden_fonts_is_read() -> None:
    cipher = '<encryption><CipherReference URI="{}"/></encryption>'
    locked = book(**{"META-INF/encryption.xml": cipher.format("OPS/text/one.xhtml")})
    with pytest.raises(NotesError, match="DRM"):
        read_here(zip_of(locked), ".epub")
    assert read_here(zip_of(book(**{"META-INF/encryption.xml": cipher.format("font.otf")})), ".epub").lines


def test_a_book_that_unpacks_to_more_than_it_may_is_refused_by_its_stated_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipped, "LARGEST", 100_000)
    bomb = book(**{"OPS/text/one.xhtml": "a" * 200_000})
    with pytest.raises(NotesError, match=r"unpacks to more than the 97\.7 KiB"):
        read_here(zip_of(bomb), ".epub")


def test_a_member_that_lies_about_its_size_gives_no_more_than_it_states() -> None:
    data = bytearray(zip_of({"a": "x" * 5000}))
    at = data.rindex(b"PK\x01\x02") + 24  # the uncompressed size in the central directory
    assert int.from_bytes(data[at : at + 4], "little") == 5000
    data[at : at + 4] = (10).to_bytes(4, "little")
    with pytest.raises(NotesError, match="cannot be unpacked"):
        zipped.Zipped(bytes(data), "EPUB").read("a")


# Word ----------------------------------------------------------------------------------------------------


def word() -> bytes:
    docx = pytest.importorskip("docx", reason="python-docx, which makes the documents of this test, is not installed")
    document = docx.Document()
    document.core_properties.title = "Теплица"
    document.add_heading("Полив", 1)
    document.add_paragraph("Насос открывает клапан.")
    document.add_heading("Старт", 2)
    document.add_paragraph("раз", style="List Bullet")
    document.add_paragraph("два", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for at, text in enumerate(["A", "B", "1", "2"]):
        table.cell(at // 2, at % 2).text = text
    document.add_paragraph("конец")
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def test_a_word_document_is_read_with_headings_lists_and_tables() -> None:
    found = read_here(word(), ".docx")
    assert found.title == "Теплица"
    assert "\n".join(found.lines) == (
        "# Полив\n\nНасос открывает клапан.\n\n## Старт\n\n- раз\n- два\n\n| A | B |\n| --- | --- |\n| 1 | 2 |\n\nконец"
    )


def test_what_was_inserted_in_a_word_document_is_read_and_what_was_deleted_is_not() -> None:
    body = (
        '<w:document xmlns:w="w"><w:body><w:p><w:ins><w:r><w:t>новое</w:t></w:r></w:ins>'
        "<w:del><w:r><w:delText>старое</w:delText></w:r></w:del></w:p>"
        "<w:sdt><w:sdtContent><w:p><w:r><w:t>в поле</w:t></w:r></w:p></w:sdtContent></w:sdt></w:body></w:document>"
    )
    relations = '<r><Relationship Type="x/officeDocument" Target="word/document.xml"/></r>'
    found = read_here(zip_of({"_rels/.rels": relations, "word/document.xml": body}), ".docx")
    assert found.lines == ("новое", "", "в поле")


def test_a_word_document_under_a_password_says_so() -> None:
    with pytest.raises(NotesError, match="password"):
        read_here(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), ".docx")


# Jupyter -------------------------------------------------------------------------------------------------


def test_a_notebook_of_jupyter_is_read_with_its_text_code_and_short_outputs() -> None:
    printed = "".join(f"row {n}\n" for n in range(100))
    notebook = {
        "cells": [
            {"cell_type": "markdown", "source": ["# Расход\n", "воды"]},
            {
                "cell_type": "code",
                "source": "print('```')",
                "outputs": [
                    {"output_type": "stream", "text": printed},
                    {"output_type": "error", "ename": "ValueError", "evalue": "нет воды"},
                    {"output_type": "display_data", "data": {"image/png": "AAAA"}},
                ],
            },
        ],
        "metadata": {"language_info": {"name": "python"}},
        "nbformat": 4,
    }
    found = read_here(json.dumps(notebook).encode(), ".ipynb")
    text = "\n".join(found.lines)
    assert found.title == "Расход"
    assert text.startswith("# Расход\nводы\n\n```python\nprint('```')\n```\n\n```text\nrow 0\n")
    assert "row 19\n…" in text
    assert "row 20" not in text
    assert "ValueError: нет воды" in text
    assert "AAAA" not in text


# Org -----------------------------------------------------------------------------------------------------

ORG = """\
#+TITLE: Полив
#+TODO: ЧЕРНОВИК | ГОТОВ
* TODO [#A] Насосы [1/2] :pump:water:
:PROPERTIES:
:ID: abc
:END:
Про [[file:pump.org::*Старт][насос]] и [[https://x.y][сайт]], [[Клапан]].
** ЧЕРНОВИК Старт
#+BEGIN_SRC python
* не заголовок
#+END_SRC
- один
- два

  ещё
|a|b|
|-+-|
* Второй
"""


def test_org_keeps_its_lines_and_gives_headings_without_states_and_tags() -> None:
    found = page(".org", ORG.replace("\n* не", "\n,* не").encode())
    assert found.kind is Kind.ORG
    assert found.title == "Полив"
    assert found.lines == tuple(ORG.replace("\n* не", "\n,* не").splitlines())
    assert headings(found) == [(), ("Насосы",), ("Насосы", "Старт"), ("Второй",)]
    assert [block.form for block in found.blocks if block.first_line > 8] == [
        Form.CODE,
        Form.LIST,
        Form.TABLE,
        Form.HEADING,
    ]
    assert found.links == (Link(7, "pump.org", "Старт", "насос"), Link(7, "", "Клапан", None))


def test_a_block_of_org_that_is_never_closed_hides_no_heading() -> None:
    assert headings(page(".org", ORG.replace("#+END_SRC\n", "").encode()))[-2:] == [("не заголовок",), ("Второй",)]


def test_many_blocks_of_org_that_are_never_closed_are_read_in_no_time() -> None:
    assert len(page(".org", b"#+begin_src x\n" * 100_000).blocks) == 100_000


# Source code ---------------------------------------------------------------------------------------------

PYTHON = '''\
"""About pumps."""
import os


# Opens the valve.
@cache
def start(pump):
    def inner(): ...


class Pump:
    """A pump."""

    # Off.
    def stop(self):
        return 1

    async def wait(self): ...


tail = 1
'''


def code(ending: str, text: str) -> list[tuple[int, int, str]]:
    found = read_here(text.encode(), ending)
    return [(section.first_line, section.last_line, ".".join(section.heading)) for section in found.sections]


def test_code_is_read_by_its_definitions_with_the_comments_above_them() -> None:
    assert code(".py", PYTHON) == [
        (1, 4, ""),
        (5, 8, "start"),
        (9, 10, ""),
        (11, 13, "Pump"),
        (14, 16, "Pump.stop"),
        (17, 17, "Pump"),
        (18, 18, "Pump.wait"),
        (19, 21, ""),
    ]
    found = page(".py", PYTHON.encode())
    assert found.lines == tuple(PYTHON.splitlines())
    assert {block.form for block in found.blocks} == {Form.CODE}


@pytest.mark.parametrize(
    ("ending", "text", "expected"),
    [
        (".js", "// Doc\nconst f = () => {\n  1\n}\nclass A {\n  b() {}\n}\n", ["f", "A", "A.b"]),
        (".ts", "/** Doc */\nexport class A {\n  b(): void {}\n}\ninterface I {}\n", ["A", "A.b", "I"]),
        (".tsx", "export function F() {\n  return <b/>\n}\n", ["F"]),
        (".rs", "/// Doc\n#[x]\nstruct A;\nimpl A {\n  fn b() {}\n}\n", ["A", "A.b"]),
        (".go", "package a\n// Doc\nfunc (p *A) B() {}\ntype T struct {}\n", ["B", "T"]),
        (".java", "/** Doc */\nclass A {\n  @X\n  void b() {}\n}\n", ["A", "A.b"]),
        (".c", "/* Doc */\nstatic int *b(int a)\n{\n}\nstruct s *x;\n", ["b"]),
        (".h", "namespace n {\nclass A {\n  int b() { return 1; }\n};\n}\n", ["n", "n.A", "n.A.b"]),
        (".cpp", "template <class T>\nT *make() {}\nint A::b() {}\n", ["make", "A::b"]),
        (".cs", "namespace N {\n  class A {\n    void B() {}\n  }\n}\n", ["N", "N.A", "N.A.B"]),
        (".rb", "module M\n  # Doc\n  class A\n    def b; end\n  end\nend\n", ["M", "M.A", "M.A.b"]),
        (".php", "<?php\nclass A {\n  /** Doc */\n  function b() {}\n}\n", ["A", "A.b"]),
        (".sh", "# Doc\nstart() {\n  echo\n}\n", ["start"]),
    ],
)
def test_definitions_of_every_language_are_found(ending: str, text: str, expected: list[str]) -> None:
    assert list(dict.fromkeys(path for _, _, path in code(ending, text) if path)) == expected


def test_every_grammar_can_be_loaded() -> None:
    for ending in formats.GRAMMARS:
        assert read_here(b"x\n", ending).lines == ("x",)


def test_minified_code_is_left_out() -> None:
    with pytest.raises(NotesError, match="minified"):
        read_here(b"var a=1;" * 2000, ".js")


# All of them ---------------------------------------------------------------------------------------------

ENDINGS = sorted(formats.ENDINGS - {".pdf"})
SEEDS = {
    ".html": PAGE.format(charset="utf-8").encode(),
    ".epub": zip_of(book()),
    ".docx": zip_of({"_rels/.rels": '<r><Relationship Type="x/officeDocument" Target="d"/></r>', "d": "<p/>"}),
    ".ipynb": b'{"cells": [{"cell_type": "code", "source": "x", "outputs": [{}]}]}',
    ".org": ORG.encode(),
    ".py": PYTHON.encode(),
}


def held(found: Rendered) -> None:
    """Check what every document promises: that passages can be cut from it, and that it crosses between processes."""
    assert unpack(pack(found)) == found
    assert all("\n" not in line for line in found.lines)
    covered = {line for block in found.blocks for line in range(block.first_line, block.last_line + 1)}
    assert {number for number, line in enumerate(found.lines, 1) if line.strip()} <= covered


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ending=st.sampled_from(ENDINGS), data=st.binary(max_size=400))
def test_any_bytes_are_a_document_or_an_error_of_ours(ending: str, data: bytes) -> None:
    with suppress(NotesError):
        held(read_here(data, ending))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), ending=st.sampled_from(sorted(SEEDS)))
def test_a_damaged_file_is_a_document_or_an_error_of_ours(data: st.DataObject, ending: str) -> None:
    damaged = bytearray(SEEDS[ending])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        damaged[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    with suppress(NotesError):
        held(read_here(bytes(damaged), ending))


@pytest.mark.parametrize("ending", sorted(SEEDS.keys() - {".docx"}))
def test_the_same_bytes_give_the_same_passages(ending: str) -> None:
    one, two = (page(ending, SEEDS[ending]) for _ in range(2))
    assert one == two
    assert passages(one) == passages(two)
    assert passages(one)


@given(st.text(alphabet="аб. ", min_size=1, max_size=5000))
def test_a_long_paragraph_is_broken_into_lines_that_hold_its_words(text: str) -> None:
    words = " ".join(text.split())
    lines = broken(words)
    assert " ".join(" ".join(lines).split()) == words
    assert all(len(line) <= LONGEST_LINE for line in lines) or any(len(word) > LONGEST_LINE for word in words.split())


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(max_size=3), st.lists).map(
        lambda value: json.dumps(
            {
                "lines": value,
                "sections": value,
                "blocks": value,
                "links": value,
                "title": None,
                "encoding": "",
                "repairs": [],
            }
        ).encode()
    )
)
def test_what_is_no_document_does_not_cross(data: bytes) -> None:
    with suppress(ValueError):
        unpack(data)
