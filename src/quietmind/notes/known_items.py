"""Known items: what a note itself says of what it is about, as questions whose right answer is that note.

Four things of a note serve: its title, its headings, its definitions ("A hub is ...", «Хаб — это ...») and its first
sentence. Asked just so, each would find itself word for word, and any search would look perfect. So a note is asked
for *as if it had never said the words*: :func:`without` gives its passages without them, in the text, among the
headings and in the title where it says the same. What is left is how people meet their notes again: they know what a
note is about, not the words that it stands under. For the same reason sentences are asked without the note's name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from quietmind.notes.document import Passage
from quietmind.notes.language import Language, languages_in
from quietmind.notes.lemmas import content_lemmas
from quietmind.notes.markdown import plain

_LEAST_CONTENT = {"title": 2, "heading": 3, "definition": 3, "first sentence": 4}  # lemmas that say something
_MOST_WORDS = 30  # longer ones are no questions
_ASKED_WORDS = 7  # of a sentence that say something
_LEFT_TIMES = 4  # what else the note says must be so many times as long: else nothing is left to be found by
_LEAST_LEFT_CHARS = 200
_SAME_WORDS = 4  # of which a title must at least consist to be called the beginning of a sentence, or the other way

_NOT_WORDS = re.compile(r"[\W_]+")
_LINK = re.compile(r"!?\[([^\[\]\n]*)\]\((?:[^()\n]|\([^()\n]*\))*\)")
_ESCAPED = re.compile(r"\\([\\`*_{}\[\]()#+\-.!<>|~])")
_NUMBERED = re.compile(r"\A(?:\d+\.)*\d*[.)]?\s+(?=\S)")
_HEADING_LINE = re.compile(r"\s{0,3}#{1,6}\s+\S")
_TITLE_LINE = re.compile(r"title:\s*", re.IGNORECASE)
_FENCE = re.compile(r"\s*(?:```|~~~)")
_PARAGRAPH = re.compile(r"(?:[^\n]*\S[^\n]*\n?)+")
# What begins a line that is not prose: headings, lists, tables, quotes, code, rules, front matter, markup.
_NO_PROSE = re.compile(r"\s{4}|\t|\s*(?:#|[-*+]\s|\d+[.)]\s|[|>:<]|!?\[|`{3}|~{3}|-{3}|={3}|\*{3}|\w[\w-]*:\s)")
_SPEAKER_LINE = re.compile(r"\s*\[![^\]\n]*\][^\n]*\n")  # of a chat that was exported as callouts
# A sentence ends where another begins, or the paragraph ends.
_SENTENCE = re.compile(r"\S.*?[.!?…]+[»\"”)*_]*(?=\s+[^\Wa-zа-яё_]|\s+[«\"“(`*\[]|\s*\Z)", re.DOTALL)
_NO_SENTENCE = re.compile(r"[={}\t]")  # code
_NO_TERM = (
    "this|that|these|those|it|there|here|what|which|who|if|when|how|all|each|in|on|first|second|third|last|next|only|"
    "same|following|other|most|purpose|above"
)
_ENGLISH_TERM = rf"(?!(?i:(?:the\s+)?(?:{_NO_TERM})\b))[A-Z`*\"“][^\s,;:]*(?:\s+[^\s,;:]+){{0,4}}?"
_RUSSIAN_TERM = r"[А-ЯЁA-Z`*«][^\s,;:]*(?:\s+[^\s,;:]+){0,4}?"
_DEFINITIONS = (
    re.compile(rf"{_ENGLISH_TERM}\s+(?:is|are)\s+((?:an?|the|one|any)\s.+)", re.DOTALL),
    re.compile(rf"{_RUSSIAN_TERM}\s+(?:[—–-]\s+это|является)\s+(.+)", re.DOTALL),
)
_LIST_MARKS = " \t#*+->"


class Source(StrEnum):
    """What of a note a question was made of."""

    TITLE = "title"
    HEADING = "heading"
    DEFINITION = "definition"
    OPENING = "first sentence"


@dataclass(frozen=True)
class Item:
    """A question, and the note that it must lead to.

    ``said`` are the words of the note that it was made of, as they stand at ``line``; asked for, they are withheld.
    ``languages`` of the question: more than one where it mixes them, never none.
    """

    source: Source
    query: str
    said: str
    path: Path
    line: int
    languages: tuple[Language, ...]


def items_of(passages: Sequence[Passage]) -> list[Item]:
    """Return all questions that a note gives, from its passages in order; the same words once."""
    found: dict[str, Item] = {}
    for source, query, said, passage, line in _candidates(passages):
        languages = languages_in(query)
        if not languages or len(query.split()) > _MOST_WORDS:
            continue
        if len(content_lemmas(query)) < _LEAST_CONTENT[source]:
            continue
        item = Item(source, query, said, passage.path, line, languages)
        if _leaves_enough(passages, item):
            found.setdefault(key(query), item)
    return list(found.values())


def without(passage: Passage, item: Item) -> Passage:
    """Return ``passage``, of the item's note, as it would be had the note never said the item's words.

    Lines stay where they are. A title that says the same, or begins so, is empty then.
    """
    same = key(item.said)
    lines = ["" if _says(line, same) else line for line in passage.text.split("\n")]
    text = "\n".join(lines)
    if item.source in (Source.DEFINITION, Source.OPENING):
        text = text.replace(item.said, "\n" * item.said.count("\n"))
    heading = tuple(each for each in passage.heading if key(_shown(each)) != same)
    title = "" if _same_title(passage.title, item.said) else passage.title
    return replace(passage, title=title, heading=heading, text=text)


def key(text: str) -> str:
    """Return what two texts share that say the same: their letters and digits, in lower case."""
    return _NOT_WORDS.sub("", unicodedata.normalize("NFC", text)).casefold()


def _candidates(passages: Sequence[Passage]) -> Iterator[tuple[Source, str, str, Passage, int]]:
    """Yield source, query, said, passage and line of whatever may become an item."""
    title = _shown(passages[0].title) if passages else ""
    opened: set[tuple[str, ...]] = set()  # sections that have had prose: what they define, they define first
    for passage in passages:
        headings = {key(_shown(each)) for each in passage.heading}
        for line, text in enumerate(passage.text.split("\n"), passage.first_line):
            words = _line_words(text)
            if title and key(words) == key(title):
                yield Source.TITLE, title, words, passage, line
            elif _HEADING_LINE.match(text) and key(words) in headings:
                yield Source.HEADING, words, words, passage, line
        for at, sentence in _sentences(passage.text):
            line = passage.first_line + passage.text.count("\n", 0, at)
            shown = _shown(sentence)
            defined = next((found for each in _DEFINITIONS if (found := each.fullmatch(shown))), None)
            if defined is not None and passage.heading not in opened:
                yield Source.DEFINITION, _unnamed(defined[1], sentence, passage), sentence, passage, line
            elif not opened:
                yield Source.OPENING, _unnamed(shown, sentence, passage), sentence, passage, line
            opened.add(passage.heading)


def _unnamed(query: str, said: str, passage: Passage) -> str:
    """Return the beginning of ``query``, as long as people ask, without the words of the note's name.

    Who knows the name has no need to describe what it names.
    """
    title = "" if _same_title(passage.title, said) else passage.title
    name = set(content_lemmas(f"{title}\n{passage.path.stem}"))
    words: list[str] = []
    telling = 0
    for word in query.rstrip(".!?… ").split():
        lemmas = content_lemmas(word)
        if name.isdisjoint(lemmas) and telling < _ASKED_WORDS:
            words.append(word)
            telling += bool(lemmas)
    return " ".join(words).strip(" ,;:(")


def _sentences(text: str) -> Iterator[tuple[int, str]]:
    """Yield where the first sentence of each paragraph of prose begins in ``text``, and the sentence as it stands."""
    fenced = False
    for paragraph in _PARAGRAPH.finditer(text):
        spoken = _SPEAKER_LINE.match(paragraph[0])
        start = paragraph.start() + (spoken.end() if spoken else 0)
        said = text[start : paragraph.end()]
        fences = sum(1 for line in said.split("\n") if _FENCE.match(line))
        outside, fenced = not fenced and not fences, fenced ^ bool(fences % 2)
        if outside and not _NO_PROSE.match(said):
            sentence = _SENTENCE.match(said)
            if sentence is not None and _is_prose(sentence[0]):
                yield start, sentence[0]


def _is_prose(sentence: str) -> bool:
    if _NO_SENTENCE.search(sentence) or sentence.count("(") != sentence.count(")"):
        return False
    return not any(_NO_PROSE.match(line) for line in sentence.split("\n"))


def _leaves_enough(passages: Sequence[Passage], item: Item) -> bool:
    left = sum(len(without(passage, item).text) for passage in passages)
    return left >= max(_LEAST_LEFT_CHARS, _LEFT_TIMES * len(item.said))


def _says(line: str, same: str) -> bool:
    """Say whether a line consists of the words whose key is ``same``: a heading, an item, a title of front matter."""
    return bool(same) and key(_line_words(line)) == same


def _line_words(line: str) -> str:
    return _shown(_TITLE_LINE.sub("", line.lstrip(_LIST_MARKS), count=1).rstrip(" \t#"))


def _same_title(title: str, said: str) -> bool:
    one, other = key(_shown(title)), key(_shown(said))
    if one == other:
        return True
    enough = min(len(title.split()), len(said.split())) >= _SAME_WORDS
    return enough and bool(one and other) and (one.startswith(other) or other.startswith(one))


def _shown(text: str) -> str:
    """Return ``text`` as a person would type it: without markup, link targets, numbering, signs of paragraphs."""
    text = _ESCAPED.sub(r"\1", _LINK.sub(r"\1", " ".join(text.split()))).replace("¶", "")
    return plain(_NUMBERED.sub("", text.strip())).strip()
