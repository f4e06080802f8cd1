"""How an answer is told behind its text, in lines for people, and what all of it is as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from quietmind.think.answer import STOPPED, Answer, FromNotebook, Part
from quietmind.think.verify import Citation

SOURCES = "Sources:"
NOTHING_FOUND = "Nothing in the indexed notes is about this, so the model was not asked."
_UNSUPPORTED = "[?] no passage that the model was given supports this sentence; treat it as the model's own words."
_DIFFERING = "The notes differ here; which of them holds is for you to decide:"
_CLOSEST_BESIDE = "Closest to the question in the notes:"
_CLOSEST_INSTEAD = "No sentence of the answer stands in the notes. What comes closest to the question there:"
_LEFT_OUT = "(left out: "
# How the remarks behind an answer begin.
_REMARKS = (NOTHING_FOUND, _UNSUPPORTED, _DIFFERING, _LEFT_OUT, *(f"({why}" for why in STOPPED))
_STANDINGS = {
    "verified": "",
    "edited": "  (the file has changed around these words since it was indexed)",
    "moved": "  (moved since indexing; these are its lines now)",
    "changed": "  (NOT VERIFIED: changed since indexing, the words no longer stand in the file; run `quietmind index`)",
    "gone": "  (NOT VERIFIED: the file can no longer be read; run `quietmind index`)",
}


def without_sources(text: str) -> str:
    """Return the text of an answer without what was told behind it, as a client sends it back."""
    lines = text.splitlines()
    ends = (number for number, line in enumerate(lines) if line.strip() == SOURCES or line.startswith(_REMARKS))
    return "\n".join(lines[: next(ends, len(lines))]).strip()


def remarks(answer: Answer) -> list[str]:
    """Return the lines that a person should read with an answer, before its citations."""
    if not answer.found:
        return [NOTHING_FOUND]
    lines = [] if answer.text or answer.parts else ["The model answered nothing."]
    if dropped := sum(len(part.dropped) for part in answer.parts):
        sentences = "1 sentence" if dropped == 1 else f"{dropped:,} sentences"
        lines.append(f"{_LEFT_OUT}{sentences} that no passage supports; the answer as JSON has them)")
    for one, other in answer.disagreements:
        lines += [_DIFFERING, f"- {one}", f"- {other}"]
    if answer.stopped_early:
        lines.append(f"({answer.stopped_early})")
    if answer.unsupported:
        lines.append(_UNSUPPORTED)
    return lines


def citation_lines(answer: Answer, shown: Callable[[Path], str]) -> list[str]:
    """Return a line for each citation, those that bear the answer first; ``shown`` writes a path for people."""
    borne = [citation for citation in answer.citations if citation.supports]
    lines = [_line(citation, shown) for citation in borne]
    if close := [citation for citation in answer.citations if not citation.supports]:
        lines += [_CLOSEST_BESIDE if borne else _CLOSEST_INSTEAD, *(_line(each, shown) for each in close)]
    return lines


def _line(citation: Citation, shown: Callable[[Path], str]) -> str:
    where = f"{shown(citation.path)}:{citation.first_line}-{citation.last_line}"
    if citation.place is not None:
        where += f" ({citation.place})"
    quote = " ".join(citation.quote.split())
    return f"[{citation.number}] {where}  “{quote}”{_STANDINGS[citation.standing]}"


def as_json(answer: Answer, *, show: bool = False) -> dict[str, Any]:
    """Return an answer as a JSON document; with ``show``, the passages that the model was given are in it."""
    timings = answer.timings
    engine = timings.engine
    document: dict[str, Any] = {
        "question": answer.question,
        "found": answer.found,
        "answer": answer.text,
        "citations": [citation_as_json(citation) for citation in answer.citations],
        "unsupported": list(answer.unsupported),
        "stopped_early": answer.stopped_early,
        "timings": {
            "search_ms": round(timings.search_ms, 1),
            "load_ms": round(timings.load_ms, 1),
            "first_token_ms": round(timings.first_token_ms, 1),
            "total_ms": round(timings.total_ms, 1),
            "prompt_tokens": engine.prompt,
            "cached_tokens": engine.cached,
            "answer_tokens": engine.predicted,
            "prefill_tokens_per_s": round(engine.prefill_per_second, 1),
            "decode_tokens_per_s": round(engine.decode_per_second, 1),
        },
        "notebook": None if answer.notebook is None else _notebook_json(answer.notebook),
        "parts": [_part_json(part) for part in answer.parts],
        "disagreements": [list(pair) for pair in answer.disagreements],
        "model": answer.model,
    }
    if show:
        document["passages"] = [
            {
                "number": given.number,
                "path": str(given.passage.path),
                "first_line": given.passage.first_line,
                "last_line": given.passage.last_line,
                "score": round(given.score, 4),
                "tokens": given.tokens,
                "text": given.passage.text,
            }
            for given in answer.given
        ]
    return document


def citation_as_json(citation: Citation) -> dict[str, Any]:
    """Return a citation as JSON; its path is absolute."""
    return {
        "number": citation.number,
        "path": str(citation.path),
        "place": citation.place,
        "first_line": citation.first_line,
        "last_line": citation.last_line,
        "quote": citation.quote,
        "verified": citation.verified,
        "standing": citation.standing.value,
        "supports": list(citation.supports),
    }


def _notebook_json(used: FromNotebook) -> dict[str, Any]:
    return {
        "name": used.name,
        "tokens": used.tokens,
        "restored_tokens": used.restored,
        "restore_ms": round(used.restore_ms, 1),
        "snapshot": used.snapshot,
        "prefilled_tokens": used.prefilled,
        "fresh_prefill_s": round(used.fresh_seconds, 3),
        "read_s": None if used.read_seconds is None else round(used.read_seconds, 3),
    }


def _part_json(part: Part) -> dict[str, Any]:
    return {
        "notebook": part.notebook,
        "restored": None if part.whole is None else _notebook_json(part.whole),
        "why_passages": part.why or None,
        "kept": list(part.kept),
        "dropped": list(part.dropped),
        "stopped_early": part.stopped_early,
    }
