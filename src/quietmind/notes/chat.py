"""Chats exported to Markdown, one callout a turn, as below.

>[!nexus_user] **User** - 30.06.2025 at 11:04
> What was said, quoted.
<!-- UID: 6c387413-... -->
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from quietmind.notes import markdown
from quietmind.notes.document import Block, Form, Link, Section

_HEADER = re.compile(r">\s*\[!nexus_(\w+)\](.*)")
_UID = re.compile(r"(?:>\s?)*<!--\s*UID:\s*(.*?)\s*-->\s*")
_WHEN = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})\D{1,6}(\d{1,2}):(\d{2})")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_QUOTE_MARK = re.compile(r" ?> ?")
_SPEAKERS = {"user": "user", "agent": "assistant", "assistant": "assistant", "ai": "assistant"}
_TITLE_LENGTH = 80


@dataclass(frozen=True)
class Turn:
    """One turn: 1-based lines, header and end mark included. ``when`` is ISO to the minute."""

    first_line: int
    last_line: int
    speaker: str
    when: str | None
    uid: str | None

    @property
    def last_said(self) -> int:
        """The last line before the end mark."""
        return self.last_line - (self.uid is not None)


@dataclass(frozen=True)
class Chat:
    """A chat as :class:`Document` needs it."""

    title: str | None
    lines: tuple[str, ...]
    sections: tuple[Section, ...]
    blocks: tuple[Block, ...]
    links: tuple[Link, ...]


def find_turns(lines: Sequence[str]) -> list[Turn]:
    """Return the turns, in order; none when ``lines`` are no chat export.

    A turn ends with its UID, or with the line before the next turn, or with the file. A header that stands in a code
    fence outside of all turns is an example, not a turn.
    """
    turns: list[Turn] = []
    header: re.Match[str] | None = None
    began = 0
    fence: str | None = None

    def close(last: int, uid: str | None = None) -> None:
        nonlocal header
        if header is not None:
            speaker = header[1].lower()
            turns.append(Turn(began, last, _SPEAKERS.get(speaker, speaker), _when(header[2]), uid))
        header = None

    for number, line in enumerate(lines, 1):
        if header is None and (mark := _FENCE.match(line)):
            fence = mark[1] if fence is None else None if fence == mark[1] else fence
        if fence is not None:
            continue
        if found := _HEADER.match(line):
            close(number - 1)
            header, began = found, number
        elif header is not None and (end := _UID.fullmatch(line)):
            close(number, end[1])
    close(len(lines))
    return turns


def parse(lines: Sequence[str], turns: Sequence[Turn]) -> Chat:
    """Return the chat that ``turns`` (of :func:`find_turns`) make of ``lines``; between turns stands Markdown."""
    unquoted = list(lines)
    for turn in turns:
        for index in range(turn.first_line - 1, turn.last_line):
            unquoted[index] = (
                _QUOTE_MARK.sub("", lines[index], count=1) if lines[index].lstrip()[:1] == ">" else lines[index]
            )
    sections: list[Section] = []
    blocks: list[Block] = []
    links: list[Link] = []

    def between(first: int, last: int) -> None:
        parsed = markdown.parse(unquoted[first - 1 : last], first)
        sections.extend(markdown.sections(parsed.headings, first, last))
        blocks.extend(parsed.blocks)
        links.extend(parsed.links)

    following = 1
    for turn in turns:
        if following < turn.first_line:
            between(following, turn.first_line - 1)
        said = markdown.parse(unquoted[turn.first_line : turn.last_said], turn.first_line + 1)
        sections += markdown.sections(
            said.headings, turn.first_line, turn.last_line, speaker=turn.speaker, when=turn.when, uid=turn.uid
        )
        blocks.append(Block(turn.first_line, turn.first_line, Form.MARK))
        blocks += said.blocks
        if turn.uid is not None:
            blocks.append(Block(turn.last_line, turn.last_line, Form.MARK))
        links += said.links
        following = turn.last_line + 1
    if following <= len(lines):
        between(following, len(lines))
    return Chat(_title(unquoted, turns), tuple(unquoted), tuple(sections), tuple(blocks), tuple(links))


def _when(header: str) -> str | None:
    found = _WHEN.search(header)
    if found is None:
        return None
    day, month, year, hour, minute = map(int, found.groups())
    try:
        return datetime(year, month, day, hour, minute).isoformat(timespec="minutes")
    except ValueError:  # the 31st of February
        return None


def _title(lines: Sequence[str], turns: Sequence[Turn]) -> str | None:
    """Return the first words that the user said (or anyone, if no user did), shortened at a word."""
    for turn in sorted(turns, key=lambda turn: turn.speaker != "user"):
        words = markdown.plain(" ".join(lines[turn.first_line : turn.last_said]))
        if words:
            if len(words) <= _TITLE_LENGTH:
                return words
            return words[: _TITLE_LENGTH - 1].rsplit(" ", 1)[0].rstrip(",;:.—–- ") + "…"
    return None
