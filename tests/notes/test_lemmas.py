"""A word is found whatever its inflection; an identifier is found whole and by its parts."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.notes import lemmas
from quietmind.notes.lemmas import lemma_spans, lemmas_of, query_lemmas


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("видеопамятью", "видеопамять"),
        ("заметками", "заметка"),
        ("Экспертов", "эксперт"),
        ("ёлки", "елка"),
        ("ОБЪЁМА", "объём"),
        ("running", "runs"),
        ("Snapshots", "snapshot"),
        ("и\u0306од", "йод"),
        ("за\u0301мок", "замок"),
        ("it’s", "it"),
        ("users'", "user"),
    ],
)
def test_forms_of_one_word_have_one_lemma(one: str, other: str) -> None:
    assert lemmas_of(one) == lemmas_of(other)
    assert len(lemmas_of(one)) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("REQ-12.", ["req-12", "req", "12"]),
        ("(ФТ-3.1)", ["фт-3.1", "фт", "3.1"]),
        ("num_experts_per_tok", ["num_experts_per_tok", "num", "expert", "per", "tok"]),
        ("readDocument", ["readdocu", "read", "document"]),
        ("HTTPServer", ["httpserver", "http", "server"]),
        ("launch.py", ["launch.py", "launch", "py"]),
        ("версия 2.5.1,", ["версия", "2.5.1"]),
        ("v2.5.1", ["v2.5.1", "2.5.1"]),
        ("Qwen3\u201132B", ["qwen3-32b", "qwen3", "qwen", "32b"]),
        ("KV-кеша", ["kv-кеша", "kv", "кеш"]),
        ("128k", ["128k"]),
        ("_курсив_ __жирный__", ["курсив", "жирный"]),
        ("конец. Начало", ["конец", "начало"]),
        ("— … 🙂 *** ''", []),
        ("a" * 5000, []),
        ("a" * 3_000_000, []),
    ],
)
def test_compounds_are_kept_whole_and_taken_apart(text: str, expected: list[str]) -> None:
    assert lemmas_of(text) == expected


def test_the_words_of_a_question_that_say_nothing_are_left_out() -> None:
    assert query_lemmas("Как сколько занимает the KV cache, кеш кеш?") == ["занимать", "kv", "cach", "кеш"]
    assert query_lemmas("что это") == ["что", "это"]
    assert query_lemmas("") == []


@given(st.text())
def test_spans_point_at_what_gave_the_lemma_and_lemmas_are_clean(text: str) -> None:
    spans = lemma_spans(text)
    assert [lemma for lemma, _, _ in spans] == lemmas_of(text)
    for lemma, start, end in spans:
        assert 0 <= start < end <= len(text)
        assert lemma
        assert not re.search(r"[\s\"'*()A-ZА-ЯЁё\x00-\x20]", lemma)


@given(st.lists(st.sampled_from(["кот", "REQ-1", "a.b", "x", "2.5", "don't", "éà", "ﬁ", "İ", "ß"]), max_size=8))
def test_words_do_not_influence_each_other(words: list[str]) -> None:
    assert lemmas_of(" ".join(words)) == [lemma for word in words for lemma in lemmas_of(word)]


def test_the_cache_of_words_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lemmas, "_CACHE_WORDS", 100)
    for number in range(500):
        lemmas_of(f"w{number}")
    assert len(lemmas._WORDS) <= 100


def test_importing_the_room_does_not_load_the_dictionary() -> None:
    code = (
        "import sys, quietmind.notes.index, quietmind.notes.search; "
        "print([m for m in ('pymorphy3', 'markdown_it', 'snowballstemmer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_stems_made_in_c_are_those_made_in_python() -> None:
    """The library takes PyStemmer where it is installed: an index and its searches may be made with either."""
    in_c = pytest.importorskip("Stemmer", reason="PyStemmer is not installed").Stemmer("english")
    from snowballstemmer.english_stemmer import EnglishStemmer

    in_python = EnglishStemmer()
    endings = ["", "s", "es", "ed", "ing", "ly", "er", "ies", "ization", "fulness", "ational", "able", "ement", "ously"]
    words = [
        stem + end for stem in ("run", "hop", "tri", "gener", "cal", "skat", "news", "dy", "sk") for end in endings
    ]
    assert [in_c.stemWord(word) for word in words] == [in_python.stemWord(word) for word in words]
