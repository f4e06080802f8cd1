"""A division holds every note once, fits, keeps what belongs together, and does not move what is already placed."""

from __future__ import annotations

import math
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from quietmind.workspace.divide import FILLED, Note, divide


def note(path: str, tokens: int = 100, links: tuple[str, ...] = (), words: str = "") -> Note:
    return Note(Path("/n") / path, tokens, frozenset(Path("/n") / link for link in links), frozenset(words.split()))


def by_note(division: dict[str, tuple[Path, ...]]) -> dict[str, str]:
    return {str(path.relative_to("/n")): name for name, paths in division.items() for path in paths}


def test_an_archive_that_fits_is_one_notebook() -> None:
    assert list(divide([note("a/1.md"), note("b/2.md")], 1000)) == ["n"]


def test_a_folder_that_fits_is_not_torn_apart() -> None:
    notes = [note(f"{folder}/{n}.md") for folder in ("pumps", "hubs", "tanks") for n in range(6)]
    places = by_note(divide(notes, 700))
    for folder in ("pumps", "hubs", "tanks"):
        assert len({places[f"{folder}/{n}.md"] for n in range(6)}) == 1


def test_notes_in_dated_order_stay_together_where_a_folder_is_too_large() -> None:
    division = divide([note(f"log/2024-{n:02}.md") for n in range(1, 21)], 1000)
    for paths in division.values():
        numbers = [int(path.stem[-2:]) for path in paths]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_a_small_folder_goes_where_its_links_point() -> None:
    notes = [note(f"big{b}/{n}.md", 400) for b in (1, 2) for n in range(2)]
    notes.append(note("small/x.md", 50, links=("big2/0.md",)))
    places = by_note(divide(notes, 1000))
    assert places["small/x.md"] == places["big2/0.md"] != places["big1/0.md"]


def test_a_small_folder_goes_where_its_words_are() -> None:
    notes = [note("big1/a.md", 800, words="pump valve"), note("big2/b.md", 800, words="router hub")]
    notes.append(note("small/x.md", 50, words="router hub"))
    places = by_note(divide(notes, 1000))
    assert places["small/x.md"] == places["big2/b.md"]


def test_adding_a_note_moves_no_other() -> None:
    notes = [note(f"{folder}/{n}.md") for folder in "abcdefgh" for n in range(5)]
    before = divide(notes, 1200)
    after = by_note(divide([*notes, note("c/new.md")], 1200, before))
    assert {path: after[path] for path in by_note(before)} == by_note(before)
    assert after["c/new.md"] == after["c/0.md"]


def test_a_note_that_is_gone_moves_no_other() -> None:
    notes = [note(f"{folder}/{n}.md") for folder in "abcd" for n in range(5)]
    before = divide(notes, 1200)
    after = by_note(divide(notes[1:], 1200, before))
    assert after == {path: name for path, name in by_note(before).items() if path != "a/0.md"}


def test_a_note_larger_than_a_notebook_has_one_of_its_own() -> None:
    division = divide([note("a/huge.md", 5000), note("a/small.md", 10)], 1000)
    assert (Path("/n/a/huge.md"),) in division.values()


def test_what_grew_out_of_its_notebook_drives_out_only_what_must_go() -> None:
    before = {"n": tuple(Path(f"/n/a/{n}.md") for n in range(5))}
    notes = [note(f"a/{n}.md", 900 if n == 0 else 100) for n in range(5)]
    after = by_note(divide(notes, 1200, before))
    assert [after[f"a/{n}.md"] for n in range(4)] == ["n"] * 4
    assert after["a/4.md"] != "n"


paths = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(0, 30)), unique=True, max_size=40
)


@given(paths=paths, budget=st.integers(50, 3000), data=st.data())
def test_every_note_is_in_one_notebook_and_none_is_overfull(
    paths: list[tuple[str, str, int]], budget: int, data: st.DataObject
) -> None:
    notes = [note(f"{a}/{b}/{n}.md", data.draw(st.integers(1, 400))) for a, b, n in paths]
    division = divide(notes, budget)
    placed = [path for paths_ in division.values() for path in paths_]
    assert sorted(placed) == sorted(each.path for each in notes)
    sizes = {each.path: each.tokens for each in notes}
    for paths_ in division.values():
        assert sum(sizes[path] for path in paths_) <= budget or len(paths_) == 1
    assert divide(notes, budget, division) == division


def test_there_are_few_notebooks() -> None:
    notes = [note(f"{folder}/{n}.md", 37 + (n * 53) % 211) for folder in "abcdefghij" for n in range(30)]
    total = sum(each.tokens for each in notes)
    assert len(divide(notes, 4000)) <= math.ceil(11 / 9 * total / (FILLED * 4000)) + 1
