"""What goes into the context, counted by the engine's tokenizer."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given as for_all
from hypothesis import strategies as st

from quietmind.notes.document import Hit, Passage
from quietmind.workspace.pack import pack


def hit(text: str, *, first: int = 1) -> Hit:
    return Hit(Passage(Path("/a.md"), first, first + text.count("\n"), text, "A", ("A", "B")), 1.0, 1.0)


def start(_text: str) -> int:
    return 0


def words(text: str) -> int:
    return len(text.split())


def test_the_best_passages_that_fit_are_given_in_order() -> None:
    given = pack([hit("one two"), hit("three four"), hit("five " * 50), hit("six")], 60, words, start)
    assert [one.passage.text for one in given] == ["one two", "three four", "six"]
    assert [one.number for one in given] == [1, 2, 3]


def test_the_best_passage_is_cut_at_a_line_when_it_is_too_large_alone() -> None:
    text = "\n".join(f"line {n} has five words" for n in range(40))
    (given,) = pack([hit(text, first=10)], 50, words, start)
    assert text.startswith(given.passage.text)
    assert text[len(given.passage.text) - 1] == "\n" or given.passage.text.endswith("words")
    assert given.passage.last_line == 10 + given.passage.text.count("\n")
    assert given.tokens <= 50


def test_nothing_is_given_where_not_even_a_word_fits() -> None:
    assert pack([hit("word " * 100)], 18, words, start) == ()


def test_of_an_endless_line_the_surroundings_of_what_matters_are_given() -> None:
    line = "Nothing of interest here. " * 2000 + "The armadillo sleeps. " + "Nothing again. " * 2000
    (given,) = pack([hit("short\n" + line, first=7)], 2000, words, lambda text: text.index("The armadillo"))
    assert "The armadillo sleeps." in given.passage.text
    assert len(given.passage.text) <= 2400
    assert (given.passage.first_line, given.passage.last_line) == (8, 8)


def test_nobody_counts_the_tokens_of_an_endless_line() -> None:
    counted: list[int] = []

    def count(text: str) -> int:
        counted.append(len(text))
        return words(text)

    pack([hit("word " * 2_000_000)], 2000, count, start)
    assert max(counted) < 5000


def test_title_and_headings_stand_above_the_passage_once() -> None:
    (given,) = pack([hit("text")], 100, words, start)
    assert given.block == "[1] A > B\ntext\n"


@for_all(st.lists(st.integers(1, 40), max_size=12), st.integers(0, 120))
def test_the_budget_is_never_exceeded(sizes: list[int], budget: int) -> None:
    given = pack([hit("\n".join(["word"] * size)) for size in sizes], budget, words, start)
    assert sum(words(one.block) for one in given) <= budget
