"""The example archive is what its truth file says: every planted flaw and every answer stands where it is said to
stand, and nothing that looks like a planted flaw got in by accident.

Files are decoded here by a plain table, on purpose: the program's own detection must not vouch for itself.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ARCHIVE = EXAMPLES / "archive"

# Everything that is not named here is UTF-8.
STORED_AS = {
    "inbox/dacha-2024.txt": "cp1251",
    "inbox/montazh.txt": "koi8-r",
    "hardware/power-budget.md": "utf-16",
}
# UTF-8 that was once taken for Mac Roman and saved as UTF-8 again.
DAMAGED = "chats/2025-05-20-zamorozok.md"

KINDS = {"contradiction", "superseded", "variant", "omission", "missing_link"}
WIKI_LINK = re.compile(r"\[\[([^\]|#]+)(?:#([^\]|]+))?(?:\|[^\]]+)?\]\]")
MARKDOWN_LINK = re.compile(r"\]\(([^)]+)\)")
REQUIREMENT = re.compile(r"\bREQ-\d+|\bФТ-\d+\.\d+")
REQUIREMENT_DEFINED = re.compile(r"(?:\*\*|^\| )(REQ-\d+|ФТ-\d+\.\d+)", re.M)
UI_KEY = re.compile(r"""[`"]((?:access|alert|climate|setup|vacation|water)(?:\.[a-z]+)+)[`"]""")
UI_KEY_DEFINED = re.compile(r"^\| `([a-z.]+)` \|", re.M)
CHAT_TURN = re.compile(
    r">\[!nexus_(?:user|agent)\] \*\*(?:User|Assistant)\*\* - \d\d\.\d\d\.\d{4} at \d{1,2}:\d\d\n"
    r"(?:> .*\n)+"
    r"<!-- UID: [0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12} -->\n"
)


def _decoded(path: Path) -> str:
    name = path.relative_to(ARCHIVE).as_posix()
    text = path.read_bytes().decode(STORED_AS.get(name, "utf-8"))
    return text.encode("mac_roman").decode("utf-8") if name == DAMAGED else text


NOTES = {path.relative_to(ARCHIVE).as_posix(): _decoded(path) for path in sorted(ARCHIVE.rglob("*")) if path.is_file()}
EVERYTHING = "\n".join(NOTES.values())
TRUTH: dict[str, Any] = json.loads((EXAMPLES / "archive.truth.json").read_text(encoding="utf-8"))
ENTRIES: list[dict[str, Any]] = [*TRUTH["flaws"], *TRUTH["questions"]]
MISSING_QUOTES = {
    (place["path"], place["quote"])
    for flaw in TRUTH["flaws"]
    if flaw["kind"] == "missing_link"
    for place in flaw["places"]
}


def _text_of(*folders: str) -> str:
    return "\n".join(text for name, text in NOTES.items() if name.startswith(folders))


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry["id"] for entry in ENTRIES])
def test_every_quote_stands_in_the_lines_that_it_names(entry: dict[str, Any]) -> None:
    assert entry["places"]
    for place in entry["places"]:
        lines = [line.removeprefix("> ") for line in NOTES[place["path"]].removesuffix("\n").split("\n")]
        assert 1 <= place["first_line"] <= place["last_line"] <= len(lines)
        assert place["quote"] in "\n".join(lines[place["first_line"] - 1 : place["last_line"]])


def test_ids_and_questions_are_unique() -> None:
    ids = [entry["id"] for entry in ENTRIES]
    questions = [entry["question"] for entry in [*TRUTH["questions"], *TRUTH["unanswerable"]]]
    assert len(ids) == len(set(ids))
    assert len(questions) == len(set(questions))


def test_there_are_enough_flaws_of_every_kind() -> None:
    flaws = TRUTH["flaws"]
    assert len(flaws) >= 12
    assert {flaw["kind"] for flaw in flaws} == KINDS
    assert any(flaw.get("cross") for flaw in flaws)


def test_a_disagreement_names_at_least_two_places() -> None:
    for flaw in TRUTH["flaws"]:
        if flaw["kind"] in {"contradiction", "superseded", "variant"}:
            assert len({(place["path"], place["first_line"]) for place in flaw["places"]}) >= 2, flaw["id"]


@pytest.mark.parametrize("language", ["en", "ru"])
def test_both_languages_are_asked_and_one_question_of_each_is_for_the_demo(language: str) -> None:
    asked = [question for question in TRUTH["questions"] if question["lang"] == language]
    assert len(asked) == 15
    assert sum(question.get("demo", False) for question in asked) == 1
    assert any(question.get("cross") for question in asked)
    assert sum(question["lang"] == language for question in TRUTH["unanswerable"]) == 5


def test_the_archive_has_the_promised_size() -> None:
    assert 36 <= len(NOTES) <= 48
    assert 90_000 <= sum(len(text.encode()) for text in NOTES.values()) <= 140_000


def test_both_languages_fill_about_half_of_the_archive() -> None:
    russian = len(re.findall("[а-яё]", EVERYTHING, re.I))
    english = len(re.findall("[a-z]", EVERYTHING, re.I))
    assert 0.35 < russian / (russian + english) < 0.65


def test_wiki_links_lead_nowhere_only_where_that_was_planted() -> None:
    by_target = {key: name for name in NOTES for key in (Path(name).stem, Path(name).name)}
    broken = set()
    for name, text in NOTES.items():
        for link in WIKI_LINK.finditer(text):
            target = by_target.get(link[1])
            if target is None:
                broken.add((name, link[0]))
            elif link[2] is not None:
                assert re.search(rf"^#+ {re.escape(link[2])}$", NOTES[target], re.M), f"{name}: {link[0]}"
    assert broken
    assert broken == {quote for quote in MISSING_QUOTES if WIKI_LINK.fullmatch(quote[1])}


def test_wiki_link_targets_are_unambiguous() -> None:
    stems = [Path(name).stem for name in NOTES]
    assert len(stems) == len(set(stems))


def test_markdown_links_lead_to_notes() -> None:
    links = [(name, link) for name, text in NOTES.items() for link in MARKDOWN_LINK.findall(text)]
    assert links
    for name, link in links:
        assert (ARCHIVE / name).parent.joinpath(link).is_file(), f"{name}: {link}"


def test_requirements_are_implemented_except_the_planted_one() -> None:
    defined = set(REQUIREMENT_DEFINED.findall(_text_of("requirements/")))
    assert set(REQUIREMENT.findall(EVERYTHING)) == defined
    assert defined - set(REQUIREMENT.findall(_text_of("functions/", "pseudo/"))) == {"REQ-27"}


def test_ui_keys_are_defined_except_the_planted_one() -> None:
    defined = set(UI_KEY_DEFINED.findall(_text_of("ui/texts-")))
    assert set(UI_KEY.findall(EVERYTHING)) - defined == {"alert.tank.empty"}


def test_chats_have_the_export_format() -> None:
    chats = [text for name, text in NOTES.items() if name.startswith("chats/")]
    assert len(chats) >= 4
    for text in chats:
        turns = CHAT_TURN.findall(text)
        assert len(turns) >= 4
        assert "\n".join(turns) == text


@pytest.mark.parametrize("name", sorted(STORED_AS))
def test_other_encodings_are_real_and_protected_from_git(name: str) -> None:
    stored = (ARCHIVE / name).read_bytes()
    with pytest.raises(UnicodeDecodeError):
        stored.decode("utf-8")
    assert NOTES[name].count("\n") >= 12
    assert f"archive/{name} binary" in (EXAMPLES / ".gitattributes").read_text(encoding="utf-8").splitlines()


def test_the_damaged_chat_is_unreadable_as_stored_and_whole_when_repaired() -> None:
    stored = (ARCHIVE / DAMAGED).read_text(encoding="utf-8")
    assert not re.search("[а-яё]{3}", stored)
    assert "🌱" in NOTES[DAMAGED]


def test_one_file_name_has_cyrillic_and_spaces() -> None:
    assert [name for name in NOTES if re.search("[а-яё]", name)] == ["requirements/Обогрев и проветривание.md"]
