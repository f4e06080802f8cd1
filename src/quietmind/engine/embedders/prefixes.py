"""What models want to stand before a text, so that they know a query from a passage."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


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


def prefixes_said(configuration: Any, model: str) -> Prefixes:
    """Return what the prompts of a config_sentence_transformers.json say; without any, what the model's name tells."""
    prompts = configuration.get("prompts") if isinstance(configuration, dict) else None
    if not isinstance(prompts, dict):
        return prefixes_for(model)
    passage = next((prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name)), "")
    said = Prefixes(str(prompts.get("query") or ""), str(passage))
    return said if said != Prefixes() else prefixes_for(model)
