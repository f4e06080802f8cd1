"""Contexts of real text with facts planted in them, and what is asked of them: for benchmarks/snapshot_codecs.py.

A fact ("needle") is a code that no model can know: whether it comes back shows that a cache still holds what was read.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from quietmind.base.errors import UsageError
from quietmind.engine.port import Engine, Message, Prompt, Segment

SYSTEM = "You answer questions about the person's notes."
NOTES = "Notes:\n\n"
_QUESTION = "\n\nQuestion: "
_PAGE = 3000  # characters of a page that are taken, so that a context holds many
_PIECE = 600  # characters between two places where a fact may stand
STRETCHES = 8  # texts that follow the context, of each of which
STRETCH_TOKENS = 32  # so many tokens are looked at: 256 places together
_PARAGRAPH = re.compile(r"\n\n(?=\S)")

_PLACES = (
    "station archive pump gate observatory server vault lock workshop bridge depot harbour mill chapel tunnel "
    "reactor cellar garage library tower greenhouse hangar kiosk quarry laundry"
)
_NAMES = (
    "Orion blue northern garden old delta copper river amber western Falcon silver lower Juniper granite marble "
    "Hudson crimson eastern Maple hollow Saturn velvet iron upper"
)
_RUSSIAN_PLACES = (
    "склад лаборатория станция насос архив мост цех щит сервер колодец ангар причал шлюз гараж музей туннель "
    "элеватор полигон котельная мельница башня подвал вокзал карьер теплица"
)
_RUSSIAN_NAMES = (
    "Берёза Вектор Кедр Волна Полёт Заря Гранит Рубин Сокол Нева Орион Факел Маяк Алмаз Ветер Комета Тайга Байкал "
    "Сирень Урал Метель Рассвет Янтарь Гроза Ладога"
)


@dataclass(frozen=True)
class Needle:
    """A made-up fact: the access code of something."""

    name: str
    code: str

    @property
    def sentence(self) -> str:
        """What stands in the notes."""
        if self.name.isascii():
            return f"The access code of the {self.name} is {self.code}."
        return f"Код доступа: {self.name} — {self.code}."

    @property
    def question(self) -> str:
        """What is asked of it."""
        if self.name.isascii():
            return f"What is the access code of the {self.name}? Answer with the number only."
        return f"Какой код доступа: {self.name}? Ответь только числом."


def needles(count: int, chance: random.Random) -> tuple[Needle, ...]:
    """Return facts of which no two share name or code, in English and Russian by turns. Raises UsageError past 200."""
    if not 0 < count <= 200:
        raise UsageError(f"{count:,} questions are asked for; ask for 1 to 200")
    codes = chance.sample(range(10_000, 100_000), count)
    places, names = _PLACES.split(), _NAMES.split()
    russian_places, russian_names = _RUSSIAN_PLACES.split(), _RUSSIAN_NAMES.split()
    found = []
    for number, code in enumerate(codes):
        # Each round pairs every place with another name, so that the first fifty share no word at all.
        at, shift = number // 2 % len(places), number // 2 // len(places)
        other = (at + 7 * shift) % len(places)
        name = f"{russian_places[at]} {russian_names[other]}" if number % 2 else f"{names[other]} {places[at]}"
        found.append(Needle(name, str(code)))
    return tuple(found)


@dataclass(frozen=True)
class Case:
    """A context in the tokens of one engine, and all that is asked of it.

    ``prefix`` and ``tail`` stand before and behind a question. ``open_questions`` have no short answer: their
    continuations are compared. ``stretches`` are tokens of texts that go on where the context ends.
    """

    prefix: tuple[Segment, ...]
    tail: tuple[Segment, ...]
    needles: tuple[Needle, ...]
    open_questions: tuple[str, ...]
    stretches: tuple[tuple[int, ...], ...]

    @cached_property
    def tokens(self) -> list[int]:
        """The tokens of the context."""
        return [token for segment in self.prefix for token in segment.tokens or ()]

    def context(self) -> Prompt:
        """Return the context alone."""
        return Prompt(self.prefix)

    def asking(self, question: str) -> Prompt:
        """Return the context and a question."""
        return Prompt([*self.prefix, Segment(f"{_QUESTION}{question}", trusted=False), *self.tail])

    def question_tokens(self, engine: Engine, question: str) -> list[int]:
        """Return what follows the context where ``question`` is asked."""
        return engine.tokenize(self.asking(question))[len(self.tokens) :]


def pages_of(folder: Path, chance: random.Random) -> list[str]:
    """Return the beginnings of the pages below ``folder``, shuffled. Raises UsageError where there are none."""
    pages = [file.read_text("utf-8", "replace").strip()[:_PAGE] for file in sorted(folder.rglob("*.md"))]
    pages = [page for page in pages if page]
    if not pages:
        raise UsageError(f"{folder}: no .md file with text is there; give a folder with pages")
    chance.shuffle(pages)
    return pages


def pieces_of(page: str) -> Iterator[str]:
    """Yield the page in pieces of ``_PIECE`` characters, the last one shorter."""
    whole = f"{page}\n\n"
    for start in range(0, len(whole), _PIECE):
        yield whole[start : start + _PIECE]


def case(engine: Engine, folder: Path, tokens: int, questions: int, continuations: int) -> Case:
    """Return a context of at most ``tokens`` tokens of the pages below ``folder``, with facts spread evenly over it.

    The same arguments give the same context. Raises UsageError where the pages are too few, or the facts too many.
    """
    chance = random.Random(f"{tokens} {questions}")
    planted = [_tokenized(engine, f"\n{needle.sentence}\n") for needle in needles(questions, chance)]
    head, tail = _frame(engine)
    room = tokens - _count([*head, *planted])
    if room < 0:
        raise UsageError(f"{questions} facts do not fit in {tokens:,} tokens; ask fewer questions or a larger point")
    pages = pages_of(folder, chance)
    text: list[Segment] = []
    while pages and room:
        for piece in pieces_of(pages.pop()):
            segment = _tokenized(engine, piece)
            text.append(segment if len(segment.tokens or ()) <= room else _cut(segment, room))
            room -= len(text[-1].tokens or ())
            if not room:
                break
    if room or len(pages) < STRETCHES:
        raise UsageError(f"{folder}: its pages fill no context of {tokens:,} tokens; give more text or a smaller point")
    return Case(
        prefix=(*head, *_spread(text, chance.sample(planted, len(planted)))),
        tail=tail,
        needles=needles(questions, random.Random(f"{tokens} {questions}")),
        open_questions=tuple(_open_questions([segment.text for segment in text], continuations, chance)),
        stretches=tuple(_stretches(engine, pages, chance)),
    )


def _frame(engine: Engine) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """Return what the chat template puts before what the person says, and behind it, with the tokens of the first."""
    segments = engine.render([Message("system", SYSTEM), Message("user", NOTES)]).segments
    person = max(number for number, segment in enumerate(segments) if not segment.trusted)
    head = Segment("".join(segment.text for segment in segments[: person + 1]), trusted=False)
    tokens = tuple(engine.tokenize(Prompt(segments[: person + 1])))
    return (Segment(head.text, trusted=False, tokens=tokens),), segments[person + 1 :]


def _tokenized(engine: Engine, text: str) -> Segment:
    return Segment(text, trusted=False, tokens=tuple(engine.tokenize(text)))


def _cut(segment: Segment, tokens: int) -> Segment:
    """Return the segment with its first tokens alone; its text goes on where its tokens end."""
    return replace(segment, tokens=(segment.tokens or ())[:tokens])


def _count(segments: Sequence[Segment]) -> int:
    return sum(len(segment.tokens or ()) for segment in segments)


def _spread(text: Sequence[Segment], planted: Sequence[Segment]) -> Iterator[Segment]:
    """Yield the pieces of text with the facts between them at even distances."""
    done = 0
    for number, piece in enumerate(text, 1):
        yield piece
        while done < len(planted) and (done + 0.5) * len(text) < number * len(planted):
            yield planted[done]
            done += 1


def _open_questions(pieces: Sequence[str], count: int, chance: random.Random) -> Iterator[str]:
    for number in range(count):
        russian = bool(number % 2)
        words = {word.strip(".,:;()[]«»\"'") for word in chance.choice(pieces).split()}
        fitting = sorted(word for word in words if len(word) > 5 and word.isalpha() and word.isascii() is not russian)
        word = chance.choice(fitting or ["настройка" if russian else "option"])
        yield f"Что сказано в записях о «{word}»?" if russian else f"What do the notes say about {word}?"


def _stretches(engine: Engine, pages: Sequence[str], chance: random.Random) -> Iterator[tuple[int, ...]]:
    """Yield the first tokens of a paragraph of some pages, none of which stands in the context.

    Not of their first one where they have others: pages of one kind begin alike, and what is predicted there would
    count many times.
    """
    found = 0
    for page in pages:
        begins = [match.start() for match in _PARAGRAPH.finditer(page[: -4 * STRETCH_TOKENS])]
        at = chance.choice(begins or [0])
        tokens = engine.tokenize(page[at : at + 8 * STRETCH_TOKENS])[:STRETCH_TOKENS]
        if len(tokens) == STRETCH_TOKENS:
            yield tuple(tokens)
            found += 1
        if found == STRETCHES:
            return
    raise UsageError(f"{len(pages)} pages are left to follow the context, too few of them long enough; give more text")
