"""A passage is in the languages that its words are written in, and code is in none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.notes.language import Language, languages_of
from quietmind.notes.passages import passages
from quietmind.notes.reading import parse

RUSSIAN = "Насос качает воду в бак, пока реле давления его не остановит."
ENGLISH = "The pump fills the tank until the pressure relay stops it."


def languages(text: str, name: str = "note.md") -> list[str]:
    document = parse(Path("/notes") / name, text.encode())
    return [" ".join(found) for found in languages_of(document, passages(document))]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (RUSSIAN, "ru"),
        (ENGLISH, "en"),
        (f"{ENGLISH}\n\n{RUSSIAN}", "en ru"),
        (f"{RUSSIAN} Запустите `systemctl restart pump-controller.service --no-block`.", "ru"),
        (f"{RUSSIAN} См. [описание](https://example.org/docs/pump/controller/reference.html).", "ru"),
        (f"{RUSSIAN}\n\n```sh\nsystemctl restart pump-controller.service --no-block\n```\n", "ru"),
        ("---\ntitle: pumps\ntags: [pump, relay, tank, water, garden]\n---\n" + RUSSIAN, "ru"),
        ("Die Pumpe füllt den Behälter, bis der Druckwächter sie zurückhält, natürlich für später.", "other"),
        ("Насос качає воду в бак, поки реле тиску його не зупинить, і це всім відомо.", "other"),
        ("Η αντλία γεμίζει τη δεξαμενή μέχρι να τη σταματήσει το ρελέ.", "other"),
        ("水泵将水注入水箱，直到压力继电器将其停止，大家都知道这一点吧，是的", "other"),
        (f"{ENGLISH} Café Žižek, where we met, has a pump of its own in the cellar, and nobody uses it now.", "en"),
        ("1234 5678 — 90 %", ""),
        ("OK, да", "en ru"),
    ],
)
def test_a_passage_is_in_each_language_that_has_a_quarter_of_its_letters(text: str, found: str) -> None:
    assert languages(text) == [found]


def test_what_is_too_short_to_tell_is_in_the_languages_of_its_note() -> None:
    code = "```\n" + "make install && reboot\n" * 60 + "```\n"
    text = f"# Насос\n\n{RUSSIAN * 20}\n\n{code}"
    found = languages(text)
    assert len(found) > 1
    assert set(found) == {"ru"}


def test_what_is_nothing_but_code_is_in_the_language_of_its_letters() -> None:
    assert languages("```\nmake install && reboot\n```\n") == ["en"]
    assert languages("если бак пуст:\n    остановить насос\n", "stop.pseudo") == ["ru"]


def test_what_marks_the_turns_of_a_chat_is_nobodys_language() -> None:
    text = f">[!nexus_user] **User** - 30.06.2025 at 11:04\n> {RUSSIAN}\n<!-- UID: abcdef-abcdef-abcdef -->\n"
    assert languages(text) == ["ru"]


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=200))
def test_any_text_is_in_known_languages_only_once_each(text: str) -> None:
    document = parse(Path("/notes/x.md"), text.encode())
    cut = passages(document)
    found = languages_of(document, cut)
    assert len(found) == len(cut)
    assert all(list(each) == sorted(set(each)) and set(each) <= set(Language) for each in found)
