"""The second look: what a document is about, what stands together and what opens a document lift its passages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.sqlite import connect
from quietmind.notes.index import Index
from quietmind.notes.ranking import boost, question, whole
from quietmind.notes.schema import MIGRATIONS
from quietmind.notes.search import ranked, search

WEIGHTS = {"pump": 3.0, "relay": 2.0}
WORDS = st.lists(st.sampled_from(["pump", "relay", "oil", "door"]), max_size=60)


def lift(body: str, *others: str, title: str = "", before: int = 0, weights: Mapping[str, float] = WEIGHTS) -> float:
    return boost(question(["pump", "relay"], weights), body, whole(title, [body, *others], weights), before)


def test_a_document_about_it_lifts_more_than_one_that_touches_on_it() -> None:
    rest = "oil door " * 200
    assert lift("pump", "pump relay " * 20) > lift("pump", rest + "pump relay") > lift("pump", rest)


def test_more_of_the_same_never_counts_for_more_than_all_of_the_document() -> None:
    assert lift("relay " * 5_000, before=9) < lift("pump relay " * 5_000, before=9)
    asked = question(["pump"], WEIGHTS)
    assert boost(asked, "pump", whole("", ["pump " * 5_000], WEIGHTS), 10**6) == pytest.approx(3 * 2.95, rel=0.05)


def test_a_very_short_document_is_not_about_its_only_word() -> None:
    assert lift("pump") < lift("pump", "pump oil " * 60)


def test_words_together_lift_more_than_words_apart_or_the_other_way_round() -> None:
    apart, turned = "pump " + "oil " * 9 + "relay", "relay " + "oil " * 9 + "pump"
    assert lift("pump relay " + "oil " * 9) > lift(apart) == lift(turned)
    assert lift("relay pump " + "oil " * 9) == lift(apart)


def test_the_title_is_part_of_what_a_document_is_about() -> None:
    assert lift("oil", title="pump") > lift("oil", title="door")


@given(body=WORDS, rest=WORDS, before=st.integers(0, 1000))
def test_what_opens_a_document_is_lifted_no_less_than_what_follows(
    body: list[str], rest: list[str], before: int
) -> None:
    one, two = " ".join(body), " ".join(rest)
    first, later = lift(one, two, before=before), lift(one, two, before=before + 1)
    assert first >= later >= 0
    assert (first > later) == bool({"pump", "relay"} & set(body))


def test_words_of_most_of_a_small_archive_lift_nothing() -> None:
    assert lift("pump relay", weights={"pump": 0.4, "relay": 0.5}) == 0


@given(sequence=WORDS)
def test_pairs_are_neighbours_of_the_question_without_what_is_not_asked(sequence: list[str]) -> None:
    asked = question(sequence, WEIGHTS)
    assert asked.pairs.keys() <= {("pump", "relay"), ("relay", "pump")}
    assert all(tells == asked.telling["relay"] for tells in asked.pairs.values())


def test_the_document_that_is_about_it_comes_before_the_long_one_that_mentions_it(tmp_path: Path) -> None:
    root = tmp_path / "notes"
    root.mkdir()
    said = "The hatch is sealed with wax.\n\n"
    filler = [f"## Part {part}\n\n{' '.join(f'word{part}x{n}' for n in range(150))}\n\n" for part in range(120)]
    (root / "long.md").write_text(f"# All\n\n{''.join(filler)}## Hatch\n\n{said}", encoding="utf-8")
    about = "The hatch has a lid. Wax for the hatch is in the shed. A sealed hatch stays dry.\n\n" * 3
    (root / "short.md").write_text(f"# Notes\n\n{about}## Hatch\n\n{said}", encoding="utf-8")
    connection = connect(tmp_path / "archive.db", MIGRATIONS)
    Index(connection, tmp_path / "archive.db").update(root)
    assert search(connection, "a hatch sealed with wax")[0].passage.path.name == "short.md"
    deep = list(ranked(connection, "a hatch sealed with wax", 100))
    assert list(ranked(connection, "a hatch sealed with wax", 2)) == deep[:2]
    connection.close()
