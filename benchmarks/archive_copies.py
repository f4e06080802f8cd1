"""A larger archive out of a real one: its pages again, with other words in the place of some.

Every copy exchanges a third of its words for words about as frequent in the archive, always the same one for the same
word. So lengths, structure and frequencies stay what they are in real text, the vocabulary stays full, and no copy is
the page that a query describes.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from archive_child import page_files

_WORD = re.compile(r"[^\W\d_]{4,}")
_BAND = 64  # ranks within which words are exchanged: they are about as frequent as each other
_SHARE = 1 / 3


def write_copies(pages: Path, folder: Path, times: int) -> None:
    """Write the pages, and ``times`` - 1 altered copies of each, into ``folder``: copy 3 of a page lies below ``3``."""
    paths = page_files(pages)
    frequent: Counter[str] = Counter()
    for path in paths:
        frequent.update(_WORD.findall((pages / path).read_text(encoding="utf-8", errors="replace")))
    exchanged = [exchange(frequent, random.Random(number)) for number in range(1, times)]
    for path in paths:
        text = (pages / path).read_text(encoding="utf-8", errors="replace")
        _write(folder / path, text)
        for number, words in enumerate(exchanged, 1):
            _write(folder / str(number) / path, _WORD.sub(lambda match, words=words: words[match[0]], text))  # type: ignore[misc]


def exchange(frequent: Mapping[str, int], chance: random.Random) -> dict[str, str]:
    """Return the word that stands for each word: itself, or for a third of them one of its band."""
    ranked = sorted(frequent, key=lambda word: (-frequent[word], word))
    found = {word: word for word in ranked}
    for start in range(0, len(ranked), _BAND):
        chosen = [word for word in ranked[start : start + _BAND] if chance.random() < _SHARE]
        found.update(zip(chosen, chance.sample(chosen, len(chosen)), strict=True))
    return found


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
