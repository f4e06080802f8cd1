"""What a note refers to and defines is found at its line, and nothing else is taken for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.notes import links as links_module
from quietmind.notes.links import Links, Via, find_links, note_name
from quietmind.notes.reading import parse


def links(text: str, name: str = "note.md") -> Links:
    return find_links(parse(Path("/archive") / name, text.encode()))


def found(text: str, name: str = "note.md") -> list[tuple[int, str, str, str]]:
    return [(one.line, one.via.value, one.target, one.anchor) for one in links(text, name).references]


def defined(text: str, name: str = "note.md") -> list[tuple[int, str, int]]:
    return [(one.line, one.name, one.rank) for one in links(text, name).definitions]


def test_markdown_links_are_found_with_their_anchors_and_decoded() -> None:
    text = (
        "see [a](a.md) and [b](../b/b%20c.md#Part%202 'title')\n[d](<d e.md>) ![p](p.png) [in](#here)\n"
        "[par](x_(y).md)\n[two\nlines](z.md)\n"
    )
    assert found(text) == [
        (1, "markdown", "a.md", ""),
        (1, "markdown", "../b/b c.md", "Part 2"),
        (2, "markdown", "d e.md", ""),
        (2, "embed", "p.png", ""),
        (2, "markdown", "", "here"),
        (3, "markdown", "x_(y).md", ""),
        (5, "markdown", "z.md", ""),
    ]


@pytest.mark.parametrize(
    "address", ["https://example.org/a.md", "mailto:a@b", "//host/a.md", "obsidian://open?x", "<http://a>", "#"]
)
def test_what_leads_out_of_the_archive_is_no_link(address: str) -> None:
    assert found(f"[a]({address})\n\n[b]: {address}\n\n[b]\n") == []


def test_links_by_label_are_found_where_they_are_used() -> None:
    text = (
        "[one][A b] and [a  B] and [c][]\n\n[a b]: one.md#x 'T'\n[C]: <two 2.md>\n[d]: https://e.org\n[^n]: foot.md\n"
    )
    assert found(text) == [
        (1, "markdown", "one.md", "x"),
        (1, "markdown", "one.md", "x"),
        (1, "markdown", "two 2.md", ""),
    ]


def test_what_stands_in_code_is_no_link() -> None:
    text = "`[a](a.md)` [b](b.md)\n\n```\n[c](c.md)\n```\n\n- x\n\n  ```\n  [d](d.md)\n  ```\n\nend\n\n    [e](e.md)\n"
    assert [target for _, _, target, _ in found(text)] == ["b.md"]


def test_wiki_links_and_embeds_are_told_apart_and_brackets_of_markdown_are_neither() -> None:
    assert found("![[A#B]] [[C|d]] [[1]](e.md)\n") == [
        (1, "embed", "A", "B"),
        (1, "wiki", "C", ""),
        (1, "markdown", "e.md", ""),
    ]


@pytest.mark.parametrize(
    ("line", "rank"),
    [
        ("### REQ-12, why", 0),
        ("**REQ-12** The pump stops.", 0),
        ("REQ-12: the pump stops", 0),
        ("REQ-12. The pump stops", 0),
        ("- [ ] REQ-12 — the pump stops", 0),
        ("1. **REQ-12** stops", 0),
        ("> REQ-12: quoted", 0),
        ("| REQ-12 | The pump stops when dry. |\n|---|---|", 1),
        ("| REQ-12 | `pump_stop` | ФТ-3 |\n|---|---|---|", 2),
        ("- REQ-12 checked", 2),
    ],
)
def test_an_id_is_defined_where_it_heads_its_line(line: str, rank: int) -> None:
    assert defined(f"{line}\n") == [(1, "REQ-12", rank)]
    assert "REQ-12" not in [target for _, _, target, _ in found(f"{line}\n")]


@pytest.mark.parametrize("line", ["as REQ-12 says", "REQ-12 and REQ-13 hold", "| see REQ-12 | x |", "[[n]] REQ-12: no"])
def test_an_id_elsewhere_in_a_line_is_used(line: str) -> None:
    assert (1, "id", "REQ-12", "") in found(line)
    assert "REQ-12" not in [name for _, name, _ in defined(line)]


def test_ids_in_both_alphabets_with_parts_are_whole() -> None:
    text = "see ФТ-3.1, REQ-UI-7 (НФТ-12.4.1) and A-1.\n"
    assert [target for _, _, target, _ in found(text)] == ["ФТ-3.1", "REQ-UI-7", "НФТ-12.4.1", "A-1"]


@pytest.mark.parametrize("text", ["2025-06-12", "req-12", "x-REQ-12", "REQ-12b", "LONGER-12", "REQ - 12", "REQ-12-a"])
def test_what_only_resembles_an_id_is_none(text: str) -> None:
    assert found(f"see {text} there") == []


def test_only_the_first_line_that_an_id_heads_defines_it() -> None:
    text = "| REQ-1 | The hub waits for it. |\n|---|---|\n\n## REQ-1, why\n\nREQ-1, REQ-1\n"
    assert defined(text) == [(1, "REQ-1", 1)]
    assert found(text) == [(4, "id", "REQ-1", ""), (6, "id", "REQ-1", "")]


def test_code_defines_and_uses_identifiers() -> None:
    text = (
        "calls `pump.stop_all(now)`, `mean`, `screen.title` and `x`\n\n"
        "```python\nasync def stop_all(now):\n    return minutes_today(now) + plain + httpServer\n\nclass Pump:\n```\n"
        "- in a list\n\n  ```rust\n  pub fn wind_down<T>() {}\n  ```\n"
    )
    assert defined(text) == [(4, "stop_all", 0), (7, "Pump", 0), (12, "wind_down", 0)]
    assert found(text) == [
        (1, "code", "pump.stop_all", ""),
        (1, "code", "mean", ""),
        (5, "code", "minutes_today", ""),
        (5, "code", "httpServer", ""),
    ]
    assert links(text).references[0].name == "stop_all"


def test_pseudocode_is_code_with_links_and_ids_in_its_comments() -> None:
    text = "# [[pumps]] REQ-7\nconst DRY_AFTER = 5  # REQ-8\n\nфункция остановить(насос):\n    насос.выкл_реле()\n"
    assert defined(text, "a.pseudo") == [(2, "DRY_AFTER", 0), (4, "остановить", 0)]
    assert [(line, target) for line, _, target, _ in found(text, "a.pseudo")] == [
        (1, "pumps"),
        (1, "REQ-7"),
        (2, "REQ-8"),
        (5, "выкл_реле"),
    ]


def test_lines_are_those_of_the_file_in_chats_too() -> None:
    text = "[!nexus_user] **User** - 30.06.2025 at 9:04\n> see [a](a.md)\n> and REQ-5\n"
    assert found(text) == [(2, "markdown", "a.md", ""), (3, "id", "REQ-5", "")]


@pytest.mark.parametrize("path", ["Pump.md", "../parts/PUMP", "/a/pump.html", "pump.html.md", "pump/"])
def test_a_note_is_called_the_same_however_it_is_spelled(path: str) -> None:
    assert note_name(path) == "pump"


def test_composed_and_decomposed_names_are_one() -> None:
    assert note_name("й.md") == note_name("и\u0306")


@given(st.text(alphabet="ab-1 #|*`~[]()<>:!.\nRФ_\\", max_size=200), st.sampled_from(["n.md", "n.pseudo", "n.txt"]))
def test_any_text_gives_links_at_lines_that_it_has(text: str, name: str) -> None:
    document = parse(Path("/archive") / name, text.encode())
    result = find_links(document)
    for line in [one.line for one in result.references] + [one.line for one in result.definitions]:
        assert 1 <= line <= len(document.lines)
    for definition in result.definitions:
        assert definition.name in document.lines[definition.line - 1]
    for use in result.references:
        if use.via in (Via.ID, Via.CODE):
            assert use.target in document.lines[use.line - 1]


# What is meant, each in the slow way: all that stands between, letter by letter.
_ADDRESS_PLAINLY = re.compile(r"\]\(\s*(?:<([^<>\n]*)>|((?:[^\s()]|\([^\s()]*\))+))(?:\s+[\"'(][^\n]*?)?\s*\)")
_IDENTIFIER_PLAINLY = re.compile(r"(?<![\w.])([^\W\d]\w{2,})(?=\()|(?<!\w)([^\W\d]\w{5,})")


@given(st.text(alphabet="a]()<> \n\"'", max_size=40))
def test_an_address_ends_where_it_does_when_read_letter_by_letter(text: str) -> None:
    text = f"](a{text})"
    assert [(link.span(), *link.groups()) for link in links_module._LINK_END.finditer(text)] == [
        (link.span(), *link.groups()) for link in _ADDRESS_PLAINLY.finditer(text)
    ]


@given(st.text(alphabet="aБ_A1.( ", max_size=60))
def test_an_identifier_of_code_is_called_or_long_and_telling(code: str) -> None:
    expected = {
        used[1] or used[2]
        for used in _IDENTIFIER_PLAINLY.finditer(code)
        if used[1] or links_module._TELLING.search(used[2])
    }
    document = parse(Path("/archive/n.md"), f"```\n{code}\n```\n".encode())
    found = find_links(document)
    assert {one.target for one in found.references if one.via is Via.CODE} == expected
