"""The language of an answer is the language of its question."""

from __future__ import annotations

import pytest

from quietmind.think.asked import Asked
from quietmind.think.prompts import conversation, language_of


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("How does the hub pair?", "en"),
        ("Как подключить hub?", "ru"),
        ("Сколько GPU нужно для Qwen3-Coder-480B-A35B-Instruct?", "ru"),
        ("What does the word «датчик» mean here?", "en"),
        ("42?", "en"),
    ],
)
def test_the_answer_follows_the_language_of_the_question(question: str, language: str) -> None:
    assert language_of(question) == language


def test_the_question_comes_last() -> None:
    assert conversation(Asked.after("  Why? "), ())[-1].content.endswith("Why?")
