"""What only meaning finds reaches the model where words vouch for the question, and never without them."""

from __future__ import annotations

from pathlib import Path

from quietmind.notes.document import Hit, Passage
from quietmind.think.ask import NEAREST, relevant


def _hit(name: str, coverage: float, similarity: float | None = None, crossed: float | None = None) -> Hit:
    return Hit(Passage(Path(f"/{name}"), 1, 1, name, name), 1.0, coverage, similarity, crossed)


def _names(hits: list[Hit]) -> str:
    return "".join(hit.passage.title for hit in relevant(hits))


def test_the_nearest_by_meaning_are_given_along_in_their_order() -> None:
    near = [_hit(str(n), 0.0, 0.9 - n / 100) for n in range(NEAREST + 2)]
    assert _names([near[0], _hit("a", 0.8), *near[1:], _hit("b", 0.1)]) == "0a12"


def test_what_says_the_same_in_the_other_language_is_given_along() -> None:
    crossed = [_hit(str(n), 0.0, None, 0.6 - n / 100) for n in range(2)]
    assert _names([_hit("a", 0.8), crossed[1], crossed[0], _hit("b", 0.1)]) == "a0"


def test_meaning_alone_makes_no_question_one_about_the_notes() -> None:
    assert _names([_hit("a", 0.05, 0.95), _hit("b", 0.0, 0.9)]) == ""


def test_without_vectors_words_decide() -> None:
    assert _names([_hit("a", 0.8), _hit("b", 0.5), _hit("c", 0.3)]) == "ab"
