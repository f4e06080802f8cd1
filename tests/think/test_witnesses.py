"""Among many passages the verdict is that of holding the sentence against each of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from quietmind.think.support import Support, find_support
from quietmind.think.witnesses import Witnesses

WORDS = "pump tank water hub valve opens holds 85 12 two litres °C not without never before насос бак воды не".split()  # noqa: SIM905

sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(lambda words: " ".join(words) + ".")
passages = st.tuples(st.lists(sentences, min_size=1, max_size=4).map(" ".join), sentences)


def brute(sentence: str, notes: list[tuple[str, str]], but: frozenset[int] = frozenset()) -> tuple[int, Support] | None:
    found = [
        (number, support)
        for number, (text, headings) in enumerate(notes)
        if number not in but and (support := find_support(sentence, text, headings)) is not None
    ]
    return max(found, key=lambda pair: (pair[1].share, -pair[0]), default=None)


@settings(deadline=None)
@given(sentences, st.lists(passages, max_size=6), st.frozensets(st.integers(0, 5)))
def test_looking_up_finds_what_holding_against_all_finds(
    sentence: str, notes: list[tuple[str, str]], but: frozenset[int]
) -> None:
    assert Witnesses(notes).best(sentence, but) == brute(sentence, notes, but)


@settings(deadline=None)
@given(st.data(), st.lists(passages, min_size=1, max_size=6))
def test_a_sentence_of_a_passage_is_borne_by_it_or_by_one_as_good(
    data: st.DataObject, notes: list[tuple[str, str]]
) -> None:
    text, _ = data.draw(st.sampled_from(notes))
    sentence = text.split(". ")[0].removesuffix(".") + "."
    assert Witnesses(notes).best(sentence) == brute(sentence, notes)


def test_of_the_passages_that_were_named_the_fullest_comes_first() -> None:
    notes = [("The old tank of the bench holds water here.", ""), ("Nothing.", ""), ("The tank holds water.", "")]
    found = Witnesses(notes).among("The big tank of the bench holds water here.", [2, 1, 0])
    assert [number for number, _ in found] == [0]
    assert Witnesses(notes).among("The tank holds water.", [2, 1, 0])[0][0] == 0


def test_a_number_that_stands_nowhere_is_borne_by_nothing() -> None:
    assert Witnesses([("The tank holds 85 litres.", "Tank")] * 3).best("The tank holds 850 litres.") is None


def test_what_the_headings_name_counts_as_held() -> None:
    assert Witnesses([("It holds 85 litres.", "Tank"), ("It holds 85 litres.", "Hub")]).best(
        "The hub holds 85 litres."
    ) == (1, Support(0, 19, 1.0))
