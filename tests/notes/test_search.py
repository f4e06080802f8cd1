"""Questions find the passages that answer them; no text is too strange to be a question."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quietmind.notes.document import Hit
from quietmind.notes.search import documents, search

if TYPE_CHECKING:
    from tests.notes.conftest import Archive, Indexed

SEEDS = Path(__file__).resolve().parents[3] / "shared" / "seeds"

NOTES = {
    "память.md": "# Память\n\nМодель занимает память видеокарты целиком, вместе с кешем.\n",
    "poliv.md": "# Полив\n\nТеплица поливается утром, см. ФТ-3.1 и REQ-12.\n\n## Насосы\n\nНасос включает реле\n",
    "code.pseudo": "function readSnapshot(file_name):\n    open launch.py version 2.5.1\n",
    "ёлка.txt": "Ёлку покупаем в декабре.\n",
    "english.md": "# Snapshots\n\nRunning models are restored from compressed snapshots.\n",
    "same-1.md": "одинаковые слова\n",
    "same-2.md": "одинаковые слова\n",
}


@pytest.fixture(scope="module")
def archive(indexed: Indexed) -> Archive:
    return indexed(NOTES)


def hits(archive: Archive, query: str, limit: int = 10) -> list[Hit]:
    return search(archive.connection, query, limit)


def best(archive: Archive, query: str) -> str | None:
    return next(iter(archive.found(query)), None)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("сколько памяти занимают модели", "память.md"),
        ("видеокартами", "память.md"),
        ("когда поливать теплицы?", "poliv.md"),
        ("реле насосов", "poliv.md"),
        ("елки", "ёлка.txt"),
        ("ЁЛКОЙ", "ёлка.txt"),
        ("how is a model restored from a snapshot", "english.md"),
        ("фт-3.1", "poliv.md"),
        ("REQ-12", "poliv.md"),
        ("read_snapshot", "code.pseudo"),
        ("readSnapshot", "code.pseudo"),
        ("launch.py", "code.pseudo"),
        ("2.5.1", "code.pseudo"),
        ("code.pseudo", "code.pseudo"),
    ],
)
def test_a_question_in_other_inflections_finds_its_note(archive: Archive, query: str, name: str) -> None:
    assert best(archive, query) == name


def test_coverage_is_the_share_of_the_question_that_was_found(archive: Archive) -> None:
    assert hits(archive, "насос реле")[0].coverage == pytest.approx(1.0)
    half = hits(archive, "насос дирижабль")[0].coverage
    assert half == pytest.approx(0.5)  # a word that no note holds weighs as much as the others on average
    assert hits(archive, "дирижабль") == []


def test_title_and_heading_count_for_coverage(archive: Archive) -> None:
    (hit,) = [h for h in hits(archive, "полив насосы реле") if h.coverage == pytest.approx(1.0)]
    assert hit.passage.path.name == "poliv.md"


def test_a_hit_carries_the_passage_as_it_stands_in_the_file(archive: Archive) -> None:
    passage = hits(archive, "поливается")[0].passage
    assert passage.path == archive.root / "poliv.md"
    assert passage.title == "Полив"
    assert passage.text == "\n".join(NOTES["poliv.md"].splitlines()[passage.first_line - 1 : passage.last_line])


def test_equal_passages_come_in_the_order_of_their_paths(archive: Archive) -> None:
    first, second = hits(archive, "одинаковое слово")[:2]
    assert first.score == second.score
    assert [first.passage.path.name, second.passage.path.name] == ["same-1.md", "same-2.md"]
    assert len(hits(archive, "одинаковое слово", limit=1)) == 1
    assert hits(archive, "одинаковое слово", limit=0) == []


@pytest.mark.parametrize(
    "query",
    ["", " ", '"', "'", '"память', "NEAR(", "память NEAR модель", "AND OR NOT", "title:память", "*", "пам*", "^память",
     "-", "(((", "{body}: x", "🙂", "\0", "\udcff", "a'; DROP TABLE lemmas; --", "слово " * 10_000, "x" * 100_000,
     " ".join(f"слово{n}" for n in range(5_000))],
)  # fmt: skip
def test_any_text_is_a_question(archive: Archive, query: str) -> None:
    hits(archive, query)


@given(st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_random_text_is_a_question(archive: Archive, query: str) -> None:
    for hit in hits(archive, query):
        assert 0 < hit.coverage <= 1


def test_words_that_look_like_syntax_are_only_words(archive: Archive) -> None:
    assert best(archive, 'память" OR "насос') == best(archive, "память насос")


def test_documents_tell_what_is_there(archive: Archive) -> None:
    entries = documents(archive.connection)
    assert sorted(entry.path.name for entry in entries) == sorted(NOTES)
    assert all(entry.passages >= 1 for entry in entries)
    assert [entry.repaired_lines for entry in entries] == [0] * len(NOTES)


@pytest.mark.skipif(not SEEDS.exists(), reason="the five real exports are not in this checkout")
def test_the_five_real_exports_are_found_by_questions_in_other_words_forms(indexed: Indexed) -> None:
    archive = indexed({file.name: file.read_bytes() for file in SEEDS.glob("*.txt")})
    asked = {
        "растянуть контекста на восьми видеокартах, сжатием кеша": "000",
        "веса всех экспертов загружены в видеопамяти": "001",
        "прирост нагрузок видеопамяти от удвоения контекстов": "002",
        "компьютеры эппл с терабайтом памяти, процессоры без видеокарты": "003",
        "приватностью заметок важнее скоростей": "004",
    }
    for question, name in asked.items():
        assert best(archive, question or "")[:3] == name, question  # type: ignore[index]
