"""Control tokens in what a note says: cut in two, so that no tokenizer can read them as what they spell.

Hugging Face's tokenizers recognise their added tokens in any text, whoever wrote it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

# Every control token of a published model looks like one of these; used where the tokenizer itself is out of sight.
_ANY = r"<[^\s<>]{1,64}>|\[[^\s\[\]]{1,64}\]"

_LARGEST_TOKENIZER_BYTES = 64 << 20


class Markers:
    """The texts that a tokenizer turns into one token whatever stands around them.

    ``known`` None: they are not known, and everything in pointed or square brackets is taken for one.
    """

    def __init__(self, known: Iterable[str] | None) -> None:
        if known is None:
            pattern = _ANY
        else:
            pattern = "|".join(sorted((re.escape(each) for each in known if len(each) > 1), key=len, reverse=True))
        # Looked for at every place: two markers may overlap. "(?!)" is found nowhere.
        self._pattern = re.compile(f"(?=(?:{pattern or '(?!)'}))")

    def cut(self, text: str) -> Iterator[str]:
        """Yield ``text`` in pieces none of which holds a marker: each is cut after its first character."""
        start = 0
        for found in self._pattern.finditer(text):
            yield text[start : found.start() + 1]
            start = found.start() + 1
        if start < len(text):
            yield text[start:]


def markers_of(folder: Path) -> Markers:
    """Return the markers of the tokenizer in a model's ``folder``, as far as it can be read.

    Hugging Face's ``tokenizer.json`` lists them under ``added_tokens``.
    """
    file = folder / "tokenizer.json"
    try:
        if file.stat().st_size > _LARGEST_TOKENIZER_BYTES:
            return Markers(None)
        return Markers([str(each["content"]) for each in json.loads(file.read_bytes())["added_tokens"]])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Markers(None)
