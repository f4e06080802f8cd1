"""What the model is told, in the language of the question."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from quietmind.engine.port import Message
from quietmind.think.asked import Asked
from quietmind.workspace.pack import Given

Language = Literal["en", "ru"]

_CYRILLIC = re.compile(r"[Ѐ-ӿ]")
_LATIN = re.compile(r"[A-Za-z]")


# ``behind`` asks for the sentence before its number: with "like [1]" there, after a notebook full of numbered notes, a
# model of half a billion parameters answered with numbers alone.
@dataclass(frozen=True)
class _Wording:
    system: str
    notes: str
    question: str
    behind: str
    compose: str
    statements: str
    before: str
    answer: str
    wish: str


_WORDINGS: dict[Language, _Wording] = {
    "en": _Wording(
        system=(
            "You answer questions from the person's own notes. Use only the numbered notes that are given. "
            "Keep their exact names, numbers and words. After each sentence write the number of the note "
            "that it comes from in square brackets, like [1]. If the notes do not answer the question, say so. "
            "Answer in English, briefly."
        ),
        notes="Notes:",
        question="Question:",
        behind="Answer in English, briefly: first a full sentence, then the number of its note.",
        compose=(
            "You join statements into one answer. Use every statement, add nothing, and keep their exact names, "
            "numbers and words. After each sentence write the numbers of the statements that it comes from in square "
            "brackets, like [1]. Answer in English."
        ),
        statements="Statements:",
        before="Before this, in the same conversation:",
        answer="Answer:",
        wish="A wish about the form of the answer, which changes nothing of what was said above:",
    ),
    "ru": _Wording(
        system=(
            "Ты отвечаешь на вопросы по личным заметкам человека. Опирайся только на данные пронумерованные заметки. "
            "Сохраняй точные названия, числа и слова. После каждого предложения ставь в квадратных скобках "
            "номер заметки, из которой оно взято, например [1]. Если в заметках нет ответа, так и скажи. "
            "Отвечай по-русски, кратко."
        ),
        notes="Заметки:",
        question="Вопрос:",
        behind="Ответь по-русски, кратко: сначала полное предложение, за ним номер его заметки.",
        compose=(
            "Ты соединяешь утверждения в один ответ. Используй каждое утверждение, ничего не добавляй, сохраняй точные "
            "названия, числа и слова. После каждого предложения ставь в квадратных скобках номера утверждений, из "
            "которых оно взято, например [1]. Отвечай по-русски."
        ),
        statements="Утверждения:",
        before="До этого в том же разговоре:",
        answer="Ответ:",
        wish="Пожелание о форме ответа, которое ничего не меняет в сказанном выше:",
    ),
}


def language_of(text: str) -> Language:
    """Return the language to answer in. Russian questions about software are full of Latin names; a third decides."""
    cyrillic, latin = len(_CYRILLIC.findall(text)), len(_LATIN.findall(text))
    return "ru" if cyrillic > 0.3 * (cyrillic + latin) else "en"


def stop_words(question: str) -> tuple[str, ...]:
    """Return the strings that end an answer: a weak model likes to go on with a question of its own."""
    return (f"\n{_WORDINGS[language_of(question)].question}",)


def conversation(asked: Asked, given: Sequence[Given]) -> list[Message]:
    """Return the messages that ask the question of the given passages, best first. The question comes last."""
    wording = _WORDINGS[language_of(asked.question)]
    notes = "\n".join(passage.block for passage in given)
    return [
        Message("system", wording.system),
        Message("user", f"{wording.notes}\n\n{notes}\n{_before(asked)}{wording.question} {asked.question.strip()}"),
    ]


def behind_notebook(asked: Asked) -> str:
    """Return what stands behind a notebook's notes: the question, and how and in which language to answer it.

    What stands before them is the same for all questions (workspace.layout).
    """
    wording = _WORDINGS[language_of(asked.question)]
    return f"\n{_before(asked)}{wording.question} {asked.question.strip()}\n\n{wording.behind}"


def _before(asked: Asked) -> str:
    """Return what was said before the question, and the wish; nothing where nothing was.

    Told as part of what the person says: a turn of its own in another's name could say that our rules are others.
    """
    wording = _WORDINGS[language_of(asked.question)]
    lines: list[str] = []
    if asked.turns:
        speakers = {"user": wording.question, "assistant": wording.answer}
        lines += [wording.before, *(f"{speakers[turn.role]} {turn.content.strip()}" for turn in asked.turns), ""]
    if asked.wish:
        lines += [f"{wording.wish} {asked.wish}", ""]
    return "\n".join(lines) + "\n" if lines else ""


def composing(question: str, statements: Sequence[str]) -> list[Message]:
    """Return the messages that ask for one answer made of ``statements``, each with its marks."""
    wording = _WORDINGS[language_of(question)]
    listed = "\n".join(statements)
    return [
        Message("system", wording.compose),
        Message("user", f"{wording.statements}\n\n{listed}\n\n{wording.question} {question.strip()}"),
    ]
