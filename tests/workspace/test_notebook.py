"""The order of a notebook: what is unchanged stays, so that what was read of it serves again."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from quietmind.notes.document import Passage
from quietmind.workspace.notebook import Block, Member, Version, arranged, digest_of

A, B, C, D = (Member(Path(f"/notes/{name}.md")) for name in "abcd")


def at(when: int, content: str = "same") -> Version:
    return Version(content, when)


def test_at_first_what_has_not_changed_for_longest_comes_first() -> None:
    assert arranged((), {A: at(30), B: at(10), C: at(20)}) == (B, C, A)


def test_a_changed_note_goes_to_the_end_and_the_others_keep_their_places() -> None:
    before = [(B, "same"), (C, "same"), (A, "same")]
    assert arranged(before, {A: at(30), B: at(99, "new"), C: at(20)}) == (C, A, B)


def test_an_edit_of_the_last_note_moves_nothing() -> None:
    before = [(B, "same"), (C, "same"), (A, "same")]
    assert arranged(before, {A: at(99, "new"), B: at(10), C: at(20)}) == (B, C, A)


def test_a_new_note_is_appended() -> None:
    assert arranged([(B, "same"), (A, "same")], {A: at(30), B: at(10), D: at(1)}) == (B, A, D)


def test_a_note_that_is_gone_leaves_the_rest_in_order() -> None:
    assert arranged([(B, "same"), (C, "same"), (A, "same")], {A: at(1), B: at(2)}) == (B, A)


members = st.builds(lambda n: Member(Path(f"/n/{n}")), st.integers(0, 9))
versions = st.builds(Version, st.sampled_from(["x", "y"]), st.integers(0, 5))


@given(
    before=st.lists(st.tuples(members, st.sampled_from(["x", "y"])), unique_by=lambda pair: pair[0]),
    now=st.dictionaries(members, versions),
)
def test_every_member_once_and_the_unchanged_first_in_their_old_order(
    before: list[tuple[Member, str]], now: dict[Member, Version]
) -> None:
    order = arranged(before, now)
    assert sorted(map(str, order)) == sorted(map(str, now))
    kept = [member for member, sha256 in before if member in now and now[member].sha256 == sha256]
    assert list(order[: len(kept)]) == kept


def test_the_digest_tells_order_and_words_apart() -> None:
    one, two = (Block(n, Passage(Path("/a"), n, n, text, "T")) for n, text in ((1, "one"), (2, "two")))
    assert digest_of([one, two]) != digest_of([two, one])
    assert digest_of([one, two]) == digest_of([one, two])
