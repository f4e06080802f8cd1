"""What models want to stand before a text, so that they know a query from a passage."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Prefixes:
    """What stands before a query, and before a passage."""

    query: str = ""
    passage: str = ""


# By the name of a model, as its card asks for. e5-*-instruct wants an instruction, and is met before the other e5.
_INSTRUCTION = "Instruct: Given a search query, retrieve passages that answer the query\nQuery: "
_KNOWN = (
    (re.compile(r"qwen3-embedding|e5-.*-instruct", re.IGNORECASE), Prefixes(query=_INSTRUCTION)),
    (re.compile(r"(?:^|[^a-z])e5(?:[^a-z0-9]|$)", re.IGNORECASE), Prefixes("query: ", "passage: ")),
    (re.compile(r"nomic-embed", re.IGNORECASE), Prefixes("search_query: ", "search_document: ")),
)


def prefixes_for(model: str) -> Prefixes:
    """Return what the model of this name wants; nothing for models that are not known."""
    return next((prefixes for pattern, prefixes in _KNOWN if pattern.search(model)), Prefixes())
