"""What `quietmind eval` counts: the same each time, in every leg, of questions whose words are withheld."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from quietmind.base.errors import NothingIndexed
from quietmind.engine.embedders.fake import FakeEmbedder
from quietmind.notes.document import Hit
from quietmind.notes.known_items import Source
from quietmind.notes.language import Language
from quietmind.workspace.embedding import Searcher
from quietmind.workspace.evaluation import FUSED, LEGS, MEANING, RERANK, WORDS, Evaluation
from quietmind.workspace.workspace import Workspace

THINGS = ("valve", "boiler", "fence", "garden", "ladder", "window", "chimney", "cellar", "bridge", "orchard")
OIL = "It stands there in rain and snow and wants some oil before the winter, as all such things of iron do.\n"


def a_note(thing: str) -> str:
    once = f"Nobody paints a {thing} twice a year."
    return f"# The old {thing}\n\nGrandfather bought it in town.\n\n{OIL * 2}\n{once}\n{OIL}"


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Workspace]:
    notes = tmp_path / "notes"
    notes.mkdir()
    for thing in THINGS:
        (notes / f"{thing}.md").write_text(a_note(thing), encoding="utf-8")
    with Workspace(tmp_path / "workspace", create=True) as archive:
        archive.index(notes)
        yield archive


def by_meaning(archive: Workspace, embedder: FakeEmbedder) -> None:
    archive.search_with(Searcher(archive.folder, embedder.name, lambda _: embedder))
    archive.embed(embedder)


def ranks(found: Evaluation, leg: str) -> dict[str, int | None]:
    return {each.item.path.stem: each.ranks[leg] for each in found.asked}


def test_a_note_is_found_by_what_else_it_says(archive: Workspace) -> None:
    found = archive.evaluate(questions=100, seed=1)
    assert found.legs == (WORDS,)
    # The first sentence is the same in all notes, and leads to none: one title of each note is asked for.
    assert {each.item.source for each in found.asked} <= {Source.TITLE, Source.OPENING}
    titles = [each for each in found.asked if each.item.source is Source.TITLE]
    assert len(found.asked) == len(THINGS)
    assert {each.ranks[WORDS] for each in titles} == {1}


def test_what_only_the_withheld_words_said_is_not_found(archive: Workspace, tmp_path: Path) -> None:
    (tmp_path / "notes" / "harp.md").write_text(f"# Zither lessons\n\n{OIL}{OIL}{OIL}", encoding="utf-8")
    archive.index(tmp_path / "notes")
    assert archive.search("zither lessons", 1)[0].passage.path.name == "harp.md"
    assert ranks(archive.evaluate(questions=100, seed=1), WORDS)["harp"] is None


def test_a_list_of_contents_is_no_wrong_answer(archive: Workspace, tmp_path: Path) -> None:
    contents = "".join(f"- [The old {thing}]({thing}.md)\n" for thing in THINGS)
    (tmp_path / "notes" / "a-contents.md").write_text(contents, encoding="utf-8")
    archive.index(tmp_path / "notes")
    found = archive.evaluate(questions=100, seed=1)
    titles = {each.item.path.stem: each.ranks[WORDS] for each in found.asked if each.item.source is Source.TITLE}
    assert titles
    assert set(titles.values()) == {1}


def test_the_same_seed_asks_the_same(archive: Workspace) -> None:
    one, again, other = (archive.evaluate(questions=4, seed=seed) for seed in (1, 1, 2))
    assert one.asked == again.asked
    assert len(one.asked) == 4
    assert {each.item.path for each in one.asked} != {each.item.path for each in other.asked}


def test_a_further_note_leaves_the_other_questions(archive: Workspace, tmp_path: Path) -> None:
    before = archive.evaluate(questions=100, seed=1)
    (tmp_path / "notes" / "zither.md").write_text(a_note("zither"), encoding="utf-8")
    archive.index(tmp_path / "notes")
    after = archive.evaluate(questions=100, seed=1)
    assert {each.item.query for each in before.asked} < {each.item.query for each in after.asked}


def test_nothing_is_written(archive: Workspace) -> None:
    files = [path for path in archive.folder.rglob("*") if path.is_file() and not path.name.endswith("-shm")]
    before = {path: path.read_bytes() for path in files}
    archive.evaluate(questions=100, seed=1)
    assert {path: path.read_bytes() for path in files} == before


def test_meaning_does_not_know_the_words_either(archive: Workspace) -> None:
    embedder = FakeEmbedder()
    by_meaning(archive, embedder)
    embedder.embedded.clear()
    found = archive.evaluate(questions=100, seed=1)
    assert found.legs == (WORDS, MEANING, FUSED)
    assert embedder.embedded
    queries = {each.item.query.lower() for each in found.asked}
    assert not any(query in text.lower() for text in embedder.embedded for query in queries)
    with_words = [archive.search(each.item.query, 1)[0].similarity for each in found.asked]
    assert all(with_words)


def test_reranking_is_given_what_the_best_other_leg_finds(archive: Workspace) -> None:
    given: list[int] = []

    def backwards(_question: str, hits: Sequence[Hit]) -> list[Hit]:
        given.append(len(hits))
        return list(reversed(hits))

    found = archive.evaluate(questions=5, seed=1, rerank=backwards)
    assert found.legs == (WORDS, RERANK)
    assert len(given) == 5
    comparison = found.comparison()
    assert comparison is not None
    assert comparison.best == WORDS
    assert comparison.above[RERANK].value > 0


def test_only_the_legs_that_are_asked_for_are_measured(archive: Workspace) -> None:
    by_meaning(archive, FakeEmbedder())
    found = archive.evaluate(questions=5, seed=1, legs=[MEANING])
    assert found.legs == (MEANING,)
    assert set(found.seconds) == {MEANING}
    assert found.comparison() is None


def test_figures_are_of_a_language_or_of_all(archive: Workspace) -> None:
    found = archive.evaluate(questions=100, seed=1)
    everything = found.figures(WORDS)
    assert everything is not None
    assert everything == found.figures(WORDS, Language.ENGLISH)
    assert found.figures(WORDS, Language.RUSSIAN) is None


def test_without_notes_there_is_nothing_to_ask(tmp_path: Path) -> None:
    with Workspace(tmp_path / "empty", create=True) as archive, pytest.raises(NothingIndexed):
        archive.evaluate(questions=5, seed=1)


def test_there_is_a_name_for_every_leg() -> None:
    assert set(LEGS) == {WORDS, MEANING, FUSED, RERANK}
