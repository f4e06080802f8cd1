"""The tags of a note are those that a person put there, in any script, and nothing that only looks like one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.notes.front_matter import front_matter
from quietmind.notes.reading import parse
from quietmind.notes.tags import find_tags, normal


def tags(text: str, name: str = "note.md") -> list[str]:
    document = parse(Path("/notes") / name, text.encode())
    return list(find_tags(document, front_matter(document.lines)))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("#Idea and #idea", ["idea"]),
        ("Про #насос/реле.", ["насос/реле"]),
        ("(#plans, #made-up; #under_score) **#bold**", ["bold", "made-up", "plans", "under_score"]),
        ("#nai\u0308ve #na\u00efve #Е\u0308лка", ["naïve", "ёлка"]),
        ("#2024 #1984-book #v2", ["1984-book", "v2"]),
        ("- #item\n> #quoted\n| #cell |", ["cell", "item", "quoted"]),
        ("# Heading\n\n#tag at the start of a line", ["tag"]),
        ("[to](#anchor) [[#heading]] [[note#heading]] page.md#part a#b https://x/y#z ##two &#x20;", []),
        ('<a href="#top"> <a href=#top> C# F#sharp', []),
        ("#1e90ff #FFAA0088 #decade", ["decade"]),
        ("`#code` ``#more `code` ``\n\n```\n#fenced\n```\n\n    #indented\n", []),
        ("- a list\n\n  ```\n  #fenced inside of it\n  ```\n", []),
        ("#a/ #b- #/ #-", ["a", "b"]),
    ],
)
def test_a_tag_in_the_text_begins_a_word_outside_of_code(text: str, found: list[str]) -> None:
    assert tags(text) == found


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ("tags: [Plans, '#x', \"a b\"]", ["a", "b", "plans", "x"]),
        ("tags: plans, garden/pump", ["garden/pump", "plans"]),
        ("Tags:\n  - Насос\n  - реле", ["насос", "реле"]),
        ("tags:\n- one\n- two\ntitle: - three", ["one", "two"]),
        ("tag: one", ["one"]),
        ("tags:", []),
        ("tags: [2024]", []),
        ("title: x\nmore:\n  tags: inner", []),
    ],
)
def test_front_matter_lists_tags_as_people_write_them(listed: str, found: list[str]) -> None:
    assert tags(f"---\n{listed}\n---\n\nText.\n") == found


def test_front_matter_that_never_ends_is_none() -> None:
    assert tags("---\ntags: [x]\n\nText.\n") == []


def test_notes_without_markup_have_tags_too_and_no_code() -> None:
    assert tags("    #tag", "note.idea") == ["tag"]
    assert tags("tick:\n    # TODO later #rules\n", "tick.pseudo") == ["rules"]


@given(st.text(st.sampled_from("#ab ёй\u0306/-_1`[](\n---:tags"), max_size=60))
def test_every_tag_of_any_text_is_one_as_it_is_kept(text: str) -> None:
    found = tags(text)
    assert found == sorted(set(found))
    assert all(normal(tag) == tag and any(map(str.isalpha, tag)) for tag in found)
