"""Known items: queries whose page is known, the two halves that they are split into, and how rankings of pages score.

A line of the file of queries is ``{"query", "path", "lang"}``. Settings are tuned on the queries of one half and
reported on the other; a hash of the path decides, so that all languages, sizes and folders are in both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from quietmind.base.errors import UsageError

HALVES = ("tune", "report")
FIRST = 10  # pages of a ranking that count
# Parts of a path that name a language: pages whose paths differ in nothing else are one page in two languages.
_LANGUAGES = frozenset({"ru", "en", "ru-RU", "en-US"})


@dataclass(frozen=True)
class Known:
    """A query, the page that it describes (a path below the folder of pages), and the language of both."""

    query: str
    path: str
    lang: str


@dataclass(frozen=True)
class Score:
    """Over ``queries``: the mean of 1 / rank of the known page, and the share that found it; 0 past the first ten."""

    queries: int
    mrr: float
    recall10: float


def read(file: Path) -> list[Known]:
    """Return the queries of ``file``. Raises UsageError for a line that is none."""
    found: list[Known] = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}); give a file of queries with --queries") from error
    for number, line in enumerate(lines, 1):
        try:
            said = json.loads(line)
            found.append(Known(str(said["query"]), str(said["path"]), str(said["lang"])))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f'{file}:{number}: is no query ({error!r}); a line is {{"query": ..., "path": ..., "lang": ...}}'
            ) from error
    return found


def half(path: str) -> str:
    """Return the half that the queries of this page belong to."""
    return HALVES[_digest(path)[0] >> 7]


def order(path: str) -> bytes:
    """Return what puts pages into an order that has nothing to do with what they say, nor with their halves."""
    return _digest(path)[1:]


def partners(paths: Iterable[str]) -> dict[str, str]:
    """Return for each page that exists in two languages the page of the other one."""
    same: dict[tuple[str, ...], list[str]] = {}
    for path in paths:
        neutral = tuple(part for part in PurePosixPath(path).parts if part not in _LANGUAGES)
        same.setdefault(neutral, []).append(path)
    pairs = [each for each in same.values() if len(each) == 2]
    return {one: other for pair in pairs for one, other in (pair, pair[::-1])}


def scores(
    asked: Sequence[Known], found: Sequence[Sequence[str]], other: Mapping[str, str], languages: Mapping[str, str]
) -> dict[str, Score]:
    """Return the scores of rankings, ``found[n]`` of the query ``asked[n]``: all, by language and across languages.

    Across languages (``ru>en``) the page to be found is the same one in the ``other`` language; the one in the
    language of the query is right as well, and is not counted. ``languages`` says which one a page is in.
    """
    groups: dict[str, list[float]] = {}
    for known, pages in zip(asked, found, strict=True):
        gain = reciprocal(known.path, pages)
        groups.setdefault("all", []).append(gain)
        groups.setdefault(known.lang, []).append(gain)
        if partner := other.get(known.path):
            rest = [page for page in pages if page != known.path]
            groups.setdefault(f"{known.lang}>{languages[partner]}", []).append(reciprocal(partner, rest))
    return {name: _score(gains) for name, gains in sorted(groups.items())}


def reciprocal(path: str, pages: Sequence[str]) -> float:
    """Return 1 / the rank of ``path`` among ``pages``, counted from 1; 0 where it is not among the first ten."""
    first = list(pages[:FIRST])
    return 1 / (first.index(path) + 1) if path in first else 0.0


def as_json(by_group: Mapping[str, Score]) -> dict[str, Any]:
    """Return the scores of a leg as the report has them."""
    said = {
        name: {"mrr": round(score.mrr, 4), "recall10": round(score.recall10, 4), "queries": score.queries}
        for name, score in by_group.items()
    }
    overall = said.pop("all", {"mrr": None, "recall10": None, "queries": 0})
    return {**overall, "by_language": said}


def other_languages(asked: Iterable[Known], pairs: Mapping[str, str]) -> dict[str, str]:
    """Return the language of each page of a pair: that of its query, else what the query of its partner is not."""
    said = {known.path: known.lang for known in asked}
    names = set(said.values())
    found: dict[str, str] = {}
    for path, partner in pairs.items():
        left = names - {said.get(partner)}
        found[path] = said.get(path) or (left.pop() if len(left) == 1 else "other")
    return found


def subset(asked: Sequence[Known], paths: Collection[str], other: Mapping[str, str], count: int) -> list[str]:
    """Return about ``count`` of ``paths``: the pages of queries for a half, with their partners, and others.

    Which ones is decided by their hash alone.
    """
    there = set(paths)
    chosen: dict[str, None] = {}
    for path in sorted({known.path for known in asked} & there, key=order):
        if len(chosen) >= count // 2:
            break
        chosen[path] = None
        if other.get(path) in there:
            chosen[other[path]] = None
    for path in sorted(there, key=order):
        if len(chosen) >= count:
            break
        chosen[path] = None
    return sorted(chosen)


def _digest(path: str) -> bytes:
    return hashlib.sha256(path.encode("utf-8", "surrogatepass")).digest()


def _score(gains: Sequence[float]) -> Score:
    return Score(len(gains), sum(gains) / len(gains), sum(gain > 0 for gain in gains) / len(gains))
