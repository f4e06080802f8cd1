"""Questions made of notes: what they are made of, and that their words are gone when they are asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.notes.document import Passage
from quietmind.notes.known_items import Item, Source, items_of, key, without
from quietmind.notes.passages import passages
from quietmind.notes.reading import parse

PATH = Path("/notes/pump-house.md")
REST = "Other lines go on about oil and rust for long enough, so that something is left to find the note by.\n" * 3
NOTE = f"""---
title: The pump house
---
# The pump house

A pump house is a small brick building over a well that keeps
the frost from the pipes. Water runs all year.

{REST}
## Как открыть кран зимой

Кран — это чугунное колесо за дверью слева от окна. Сначала кран закрыт.

```
The code is a fence that nobody should ever quote as prose.
```

- An item is a line that stands in a list and is no sentence.

{REST}"""


def made(text: str, path: Path = PATH) -> list[Item]:
    return items_of(passages(parse(path, text.encode())))


def test_titles_headings_and_definitions_become_questions() -> None:
    found = {(item.source, item.query, item.line) for item in made(NOTE)}
    assert found == {
        (Source.TITLE, "The pump house", 2),
        (Source.DEFINITION, "a small brick building over a well that keeps the frost", 6),
        (Source.HEADING, "Как открыть кран зимой", 13),
        (Source.DEFINITION, "чугунное колесо за дверью слева от окна", 15),
    }


def test_a_first_sentence_that_defines_nothing_is_a_question() -> None:
    (item,) = made(f"We opened the old well in March and found clean water.\n\n{REST}")
    assert (item.source, item.query) == (Source.OPENING, "We opened the old well in March and found clean water")


def test_a_sentence_is_asked_for_without_the_name_of_its_note_and_not_to_its_end() -> None:
    sentence = "The big pump house stands on a hill behind grey walls with ivy, old roses, nettles, thistles and moss."
    (item,) = [item for item in made(f"{sentence}\n\n{REST}{REST}") if item.source is Source.OPENING]
    assert item.query == "The big stands on a hill behind grey walls with ivy"
    assert item.said == sentence


def test_what_is_asked_has_no_markup() -> None:
    heading = "# 2.3. The *old* [well](well.md)[¶](#w 'Permalink')"
    text = f"{heading}\n\nSee [[well|our]] `oil_level` in the _long_ table.\n\n{REST}"
    assert [item.query for item in made(text)] == ["The old well", "See our oil_level in the long table"]


@pytest.mark.parametrize(
    "text",
    [
        f"# Log\n\n{REST}",  # one word tells nothing
        "# The pump house\n\nShort.\n",  # nothing is left to find it by
        f"# 抽水機房與管道\n\n{REST}",
        f"```\nThe old well was opened in March by all of us.\n```\n\n{REST}",
        f"x = pump(1); the old well was opened in March.\n\n{REST}",
    ],
)
def test_what_makes_no_question_is_left_out(text: str) -> None:
    assert [item for item in made(text) if "Other lines" not in item.query] == []


def test_the_words_of_a_title_are_withheld_wherever_a_line_says_just_that() -> None:
    cut = passages(parse(PATH, f"{NOTE}\n* The pump house\n".encode()))
    (item,) = [item for item in items_of(cut) if item.source is Source.TITLE]
    after = [without(passage, item) for passage in cut]
    assert all(passage.title == "" and "The pump house" not in passage.heading for passage in after)
    assert "pump house" not in "\n".join(passage.text for passage in after).lower().replace("a pump house is", "")
    assert "A pump house is" in after[0].text


def test_the_name_that_a_chat_has_of_its_first_words_is_withheld_with_them() -> None:
    said = "Why does the pump of the old well stop at night?"
    passage = Passage(PATH, 1, 9, f"[!user] **User** - 1.2.2025\n{said}\n\n{REST}", "Why does the pump of the old…")
    (item,) = items_of([passage])
    after = without(passage, item)
    assert (item.source, after.title) == (Source.OPENING, "")
    assert said not in after.text


def test_a_title_that_a_sentence_only_begins_with_stays() -> None:
    passage = Passage(PATH, 1, 9, f"Pumps are loud when they run dry for too long.\n\n{REST}", "Pumps")
    (item,) = items_of([passage])
    assert without(passage, item).title == "Pumps"


WORDS = st.lists(
    st.sampled_from(["pump", "well", "насос", "вода", "Oil", "rust", "Кран", "_dry_", "`open`", "[x](y)", "REQ-1"]),
    min_size=1,
)
LINE = st.builds(
    lambda begin, words, end: begin + " ".join(words) + end,
    st.sampled_from(["", "# ", "## ", "- ", "> ", "The ", "Насос — это ", "A pump is a ", "    ", "```"]),
    WORDS,
    st.sampled_from(["", ".", "?", "\n"]),
)


@given(st.lists(LINE, max_size=30))
def test_no_line_says_what_is_withheld_and_none_moves(lines: list[str]) -> None:
    cut = passages(parse(PATH, "\n".join([*lines, "", REST]).encode()))
    for item in items_of(cut):
        for before in cut:
            after = without(before, item)
            assert after.text.count("\n") == before.text.count("\n")
            assert item.said not in after.text.split("\n")
            assert key(item.said) not in map(key, (*after.heading, after.title))
            assert (after.path, after.first_line, after.speaker) == (before.path, before.first_line, before.speaker)


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    for item in items_of([Passage(PATH, 1, text.count("\n") + 1, text + REST, text)]):
        assert item.query.strip()


@pytest.mark.parametrize(
    ("title", "languages"),
    [
        ("The pumps of the house", "en"),
        ("Насос и бак в доме", "ru"),
        ("Настройка nginx для дома", "ru"),
        ("Pump access / насос, доступ", "en ru"),
        ("Замість їхньої старої їдальні", "other"),
    ],
)
def test_a_question_says_which_languages_it_mixes(title: str, languages: str) -> None:
    asked = [item for item in made(f"# {title}\n\n{REST}") if item.query == title]
    assert [" ".join(item.languages) for item in asked] == [languages]


def test_what_has_no_letters_is_no_question() -> None:
    assert all(item.query != "12, 345, 6789" for item in made(f"# 12, 345, 6789\n\n{REST}"))
