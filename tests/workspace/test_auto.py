"""An archive is divided for a context: estimated by script, long notes in stretches, stable, and never too large."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from quietmind.base.errors import ContextOverflow
from quietmind.engine.fake import FakeEngine
from quietmind.notes.document import Passage
from quietmind.notes.outlines import Outline, Size
from quietmind.plan.interval import Interval
from quietmind.plan.speed import Speed
from quietmind.workspace.auto import ASSUMED, Rates, calibrated, divided, room_in
from quietmind.workspace.cost import prefill_seconds
from quietmind.workspace.laid import laid_out
from quietmind.workspace.notebook import Member, Source
from quietmind.workspace.workspace import Workspace

ONE_EACH = Rates(1.0, 1.0, "for tests")


def outline(name: str, passages: int = 1, size: int = 92) -> Outline:
    """Return a note whose passages take ``size`` + 8 tokens each by ONE_EACH, ten lines apart."""
    sizes = tuple(Size(1 + 10 * number, 0, size) for number in range(passages))
    return Outline(Path("/n") / name, sizes, frozenset(), frozenset())


def by_name(notes: list[Outline], context: int = 4096, **given: object) -> dict[str, tuple[Member, ...]]:
    return {part.name: part.members for part in divided(notes, ONE_EACH, context, **given).parts}  # type: ignore[arg-type]


def test_the_room_for_notes_leaves_place_for_head_question_and_answer() -> None:
    assert 1500 < room_in(4096, ONE_EACH) < 3072
    assert room_in(8192, ASSUMED) > 6000


def test_every_note_is_in_one_notebook_and_none_is_larger_than_fits() -> None:
    notes = [outline(f"{folder}/{n}.md", passages=1 + n % 4) for folder in "abcd" for n in range(12)]
    division = divided(notes, ONE_EACH, 4096)
    members = [member for part in division.parts for member in part.members]
    assert sorted(member.path for member in members) == sorted(note.path for note in notes)
    assert all(part.tokens <= division.budget for part in division.parts)
    assert division.split == ()


def test_a_note_larger_than_the_context_is_split_into_stretches_that_fit_and_join_without_a_gap() -> None:
    division = divided([outline("long.md", passages=100), outline("short.md")], ONE_EACH, 4096)
    stretches = sorted(
        (member for part in division.parts for member in part.members if member.first_line),
        key=lambda member: member.first_line or 0,
    )
    assert division.split == ((Path("/n/long.md"), len(stretches)),)
    assert stretches[0].first_line == 1
    assert stretches[-1].last_line is None
    for one, other in pairwise(stretches):
        assert one.last_line == (other.first_line or 0) - 1
    assert all(part.tokens <= division.budget for part in division.parts)


def test_a_passage_larger_than_a_notebook_is_named() -> None:
    division = divided([outline("line.md", size=9000), outline("short.md")], ONE_EACH, 4096)
    assert division.too_large == (Path("/n/line.md"),)


def test_a_note_of_which_nothing_fits_is_in_no_notebook() -> None:
    division = divided([outline("line.md", size=9000), outline("short.md")], ONE_EACH, 4096)
    assert [member.path.name for part in division.parts for member in part.members] == ["short.md"]
    assert division.split == ()


def test_a_context_smaller_than_one_note_is_one_line_with_numbers() -> None:
    with pytest.raises(ContextOverflow, match=r"a context of 512 leaves 10 tokens.*takes about 100"):
        divided([outline("a.md")], ONE_EACH, 512)


def test_adding_a_note_moves_no_other() -> None:
    notes = [outline(f"{folder}/{n}.md", passages=2) for folder in "abcd" for n in range(8)]
    before = by_name(notes)
    after = by_name([*notes, outline("b/new.md")], existing=before)
    for name, members in before.items():
        assert set(members) <= set(after[name])


def test_a_division_again_keeps_the_stretches_of_a_long_note() -> None:
    notes = [outline("long.md", passages=100)]
    before = by_name(notes)
    assert by_name(notes, existing=before) == before


def test_a_context_that_has_grown_makes_fewer_notebooks() -> None:
    notes = [outline(f"{folder}/{n}.md", passages=2) for folder in "abcdefgh" for n in range(8)]
    small = by_name(notes, 4096)
    assert len(by_name(notes, 32768, existing=small)) < len(small) / 1.5


def test_a_new_name_is_never_that_of_a_notebook_made_by_hand() -> None:
    assert list(by_name([outline("pumps/a.md")], taken={"pumps"})) == ["pumps 2"]


def test_calibrated_rates_predict_what_the_tokenizer_takes() -> None:
    engine = FakeEngine([], context=100_000)
    texts = [("слово " * n + "word of English " * (40 - n)) for n in range(0, 40, 4)]
    passages = [Passage(Path("/n/a.md"), 1, 1, text, "Title") for text in texts]
    rates = calibrated(engine, passages)
    for passage in passages:
        counted = len(engine.tokenize(f"[100] Title\n{passage.text}\n"))
        estimated = rates.tokens([Size.of(1, "Title" + passage.text)])
        assert estimated == pytest.approx(counted, rel=0.1)


def test_one_script_alone_calibrates_too_and_nothing_at_all_is_assumed() -> None:
    engine = FakeEngine([], context=100_000)
    rates = calibrated(engine, [Passage(Path("/n/a.md"), 1, 1, "word " * n, "T") for n in (50, 100)])
    assert rates.other == pytest.approx(0.2, rel=0.2)
    assert calibrated(engine, []) == ASSUMED


def test_reading_takes_the_integral_of_the_time_of_each_token() -> None:
    def speed(depth: int) -> Speed:
        rate = 1 / (0.01 + 0.00001 * depth)
        return Speed(depth, Interval(rate / 2, rate, rate * 2), None, "")

    seconds = prefill_seconds(speed, 1000)
    assert seconds is not None
    assert seconds.mid == pytest.approx(0.01 * 1000 + 0.00001 * 1000**2 / 2, rel=1e-3)
    assert (seconds.low, seconds.high) == pytest.approx((seconds.mid / 2, seconds.mid * 2))
    assert prefill_seconds(lambda _depth: None, 1000) is None


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    folder = tmp_path / "notes"
    folder.mkdir()
    for name, paragraphs in (("long", 60), ("short", 2), ("other", 2)):
        text = "\n\n".join(f"The {name} pump number {n} hums in the cellar. " * 20 for n in range(paragraphs))
        (folder / f"{name}.md").write_text(f"# {name}\n\n{text}\n")
    with Workspace(tmp_path / "ws", create=True) as workspace:
        workspace.index(folder)
        yield workspace


def test_the_notebooks_of_a_real_division_hold_every_passage_once_and_fit_the_engine(workspace: Workspace) -> None:
    engine = FakeEngine([], context=4096)
    rates = calibrated(engine, workspace.sample())
    division = divided(workspace.outlines(), rates, engine.context)
    workspace.notebooks.divide("", {part.name: part.members for part in division.parts})
    assert len(workspace.notebooks.all()) > 2
    read: list[Passage] = []
    for notebook in workspace.notebooks.all():
        passages = workspace.notebooks.passages(workspace.notebooks.refresh(notebook.name))
        assert laid_out(workspace.notebooks, notebook.name, passages, engine, "t").left_out == ()
        read += passages
    everything = workspace.sample(count=10_000)
    assert sorted(map(str, read)) == sorted(map(str, everything))


def test_dividing_again_keeps_what_was_read_and_drops_what_is_gone(workspace: Workspace, tmp_path: Path) -> None:
    notes = sorted(outline.path for outline in workspace.outlines())
    workspace.notebooks.divide("", {"one": [Member(notes[0])], "two": [Member(notes[1])]})
    workspace.notebooks.make("by hand", Source("path", str(notes[2])))
    one = workspace.notebooks.named("one")
    workspace.notebooks.divide("", {"one": [Member(notes[0]), Member(notes[1])]})
    assert [each.name for each in workspace.notebooks.all()] == ["by hand", "one"]
    assert workspace.notebooks.named("one").made == one.made
    assert workspace.notebooks.named("one").members[0] == Member(notes[0])
