"""Passages are exact, ordered, complete, and follow the structure of what they are cut from."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.notes.document import Document, Passage
from quietmind.notes.passages import MAX_CHARS, TARGET_CHARS, passages
from quietmind.notes.reading import parse

SENTENCE = "Это предложение о том, как архив режется на части. "

PIECES = [
    "", "", "# Глава", "## Раздел", "### Часть", "текст", SENTENCE * 3, SENTENCE * 30, "- пункт", "  - вложенный",
    "| a | b |", "|---|---|", "```", "    код", "> цитата", "---", "===", "<!-- UID: 1 -->", "<div>", "\t", " ",
    ">[!nexus_user] **User** - 01.01.2025 at 1:00", ">[!nexus_agent] **A** - 01.01.2025 at 1:01", "> ## В ответе",
    "> ", ">", "function f():", "1. раз", "~~~", "[x]: y", "\u2028", "\x0c",
]  # fmt: skip


def cut(text: str, name: str = "note.md") -> tuple[Document, tuple[Passage, ...]]:
    document = parse(Path("/notes") / name, text.encode())
    return document, passages(document)


@given(st.lists(st.sampled_from(PIECES), max_size=60), st.sampled_from(["a.md", "a.txt", "a.pseudo"]))
def test_passages_are_exact_ordered_and_complete(pieces: list[str], name: str) -> None:
    document, found = cut("\n".join(pieces), name)
    covered: set[int] = set()
    previous = 0
    for passage in found:
        assert previous < passage.first_line <= passage.last_line
        previous = passage.last_line
        assert passage.text == document.text(passage.first_line, passage.last_line)
        assert passage.text.strip()
        covered.update(range(passage.first_line, passage.last_line + 1))
        assert len(passage.text) <= MAX_CHARS or passage.first_line == passage.last_line
    assert covered >= {number for number, line in enumerate(document.lines, 1) if line.strip()}
    sections = document.sections
    assert [s.first_line for s in sections] == [1, *(s.last_line + 1 for s in sections)][: len(sections)]


def test_a_section_that_fits_is_one_passage_with_its_heading_path() -> None:
    body = SENTENCE * 10
    _, found = cut(f"# Книга\n\n{body}\n\n## Глава\n\n{body}\n\n- a\n- b\n")
    assert [(p.first_line, p.last_line, p.heading) for p in found] == [
        (1, 3, ("Книга",)),
        (5, 10, ("Книга", "Глава")),
    ]


def test_a_heading_is_never_left_alone() -> None:
    _, found = cut(f"## A\n\n{SENTENCE * 24}\n\n## B\n\n{SENTENCE * 24}\n")
    assert [p.text[:4] for p in found] == ["## A", "## B"]


@pytest.mark.parametrize(
    "block",
    [
        "\n".join(f"- пункт {n}: {SENTENCE}" for n in range(28)),
        "| n | что |\n|---|---|\n" + "\n".join(f"| {n} | {SENTENCE} |" for n in range(28)),
        "```python\n" + "\n\n".join(f"x{n} = 1  # {SENTENCE}" for n in range(28)) + "\n```",
    ],
)
def test_a_list_table_or_fence_below_the_maximum_is_not_torn(block: str) -> None:
    assert TARGET_CHARS < len(block) <= MAX_CHARS
    _, found = cut(f"{SENTENCE * 12}\n\n{block}\n\n{SENTENCE * 12}\n")
    assert block in [p.text for p in found]


def test_a_list_above_the_maximum_is_cut_between_its_items() -> None:
    items = [f"- пункт {n}: {SENTENCE * 3}\n  продолжение" for n in range(40)]
    _, found = cut("\n".join(items))
    assert len(found) > 3
    assert all(p.text.startswith("- пункт") and p.text.endswith("продолжение") for p in found)


def test_a_very_long_line_is_a_passage_of_its_own() -> None:
    _, found = cut("before\n\n" + "x" * 100_000 + "\n\nafter\n")
    assert [(p.first_line, p.last_line) for p in found] == [(1, 1), (3, 3), (5, 5)]


def test_tiny_sections_of_one_parent_are_joined_under_it() -> None:
    _, found = cut("# Книга\n\n## A\n\nкоротко\n\n## B\n\nкоротко\n")
    assert [(p.first_line, p.last_line, p.heading) for p in found] == [(1, 9, ("Книга",))]


def test_turns_of_two_speakers_are_never_joined_and_keep_their_end_mark() -> None:
    text = (
        ">[!nexus_user] **User** - 01.01.2025 at 1:00\n> Да?\n<!-- UID: 1 -->\n"
        ">[!nexus_agent] **A** - 01.01.2025 at 1:01\n> " + SENTENCE * 24 + "\n<!-- UID: 2 -->\n"
    )
    _, found = cut(text)
    assert [(p.first_line, p.last_line, p.speaker, p.when) for p in found] == [
        (1, 3, "user", "2025-01-01T01:00"),
        (4, 6, "assistant", "2025-01-01T01:01"),
    ]


def test_a_long_turn_is_cut_at_its_inner_headings() -> None:
    parts = "\n".join(f"> ## Часть {n}\n>\n> {SENTENCE * 12}\n>" for n in range(5))
    _, found = cut(f">[!nexus_agent] **A** - 01.01.2025 at 1:01\n> Вот:\n{parts}\n<!-- UID: 2 -->\n")
    assert [p.heading for p in found][1:] == [(f"Часть {n}",) for n in range(1, 5)]
    assert {p.speaker for p in found} == {"assistant"}
