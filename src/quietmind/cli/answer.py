"""How an answer is printed, and what it is as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from quietmind.base.paths import shown_path
from quietmind.cli.amounts import shown_time
from quietmind.cli.output import counted, flat, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quietmind.think.answer import Answer, FromNotebook, Part
    from quietmind.think.verify import Citation
    from quietmind.workspace.pack import Given

_NOTHING = "Nothing in the indexed notes is about this, so the model was not asked."
_UNSUPPORTED = "[?] no passage that the model was given supports this sentence; treat it as the model's own words."
_DIFFERING = "The notes differ here; which of them holds is for you to decide:"
_CLOSEST_BESIDE = "Closest to the question in the notes:"
_CLOSEST_INSTEAD = "No sentence of the answer stands in the notes. What comes closest to the question there:"
_STANDINGS = {
    "verified": "",
    "edited": "  (the file has changed around these words since it was indexed)",
    "moved": "  (moved since indexing; these are its lines now)",
    "changed": "  (NOT VERIFIED: changed since indexing, the words no longer stand in the file; run `quietmind index`)",
    "gone": "  (NOT VERIFIED: the file can no longer be read; run `quietmind index`)",
}


def print_answer(answer: Answer, *, show: bool) -> None:
    """Print what stands behind the text of an answer, which has been shown while it came; ``show``: passages too."""
    if not answer.found:
        click.echo(_NOTHING)
        return
    if answer.text or not answer.parts:
        click.echo("\n" if answer.text else "The model answered nothing.\n")
    if dropped := sum(len(part.dropped) for part in answer.parts):
        click.echo(f"(left out: {counted(dropped, 'sentence')} that no passage supports; --json has them)")
    for one, other in answer.disagreements:
        click.echo(f"{_DIFFERING}\n- {visible(one)}\n- {visible(other)}")
    if answer.stopped_early:
        click.echo(f"({answer.stopped_early})")
    if answer.unsupported:
        click.echo(_UNSUPPORTED)
    _print_citations(answer.citations)
    if show:
        for given in answer.given:
            click.echo(f"\n{_given_line(given)}\n{visible(given.passage.text)}")
    click.echo(_timings_line(answer), err=True)
    for used in (answer.notebook, *(part.whole for part in answer.parts)):
        if used is not None:
            click.echo(saved_line(used), err=True)


def _print_citations(citations: Sequence[Citation]) -> None:
    borne = [citation for citation in citations if citation.supports]
    for citation in borne:
        click.echo(_citation_line(citation))
    if len(borne) < len(citations):
        click.echo(_CLOSEST_BESIDE if borne else _CLOSEST_INSTEAD)
    for citation in citations[len(borne) :]:
        click.echo(_citation_line(citation))


def saved_line(used: FromNotebook) -> str:
    """Return what was restored of a notebook, and what that spared."""
    if used.read_seconds is not None:
        took = shown_time(used.read_seconds)
        return f"notebook {used.name!r}: {used.tokens:,} tokens read in {took}, restored from now on"
    if not used.restored:
        return f"notebook {used.name!r}: {used.tokens:,} tokens read, which this engine cannot keep"
    return (
        f"restored {used.restored:,} tokens of notebook {used.name!r} in {shown_time(used.restore_ms / 1000)}; "
        f"reading them fresh takes {shown_time(used.fresh_seconds)}"
    )


def _citation_line(citation: Citation) -> str:
    place = f"{shown_path(citation.path)}:{citation.first_line}-{citation.last_line}"
    if citation.place is not None:
        place += f" ({visible(citation.place)})"
    return f"[{citation.number}] {place}  “{visible(flat(citation.quote))}”{_STANDINGS[citation.standing]}"


def _given_line(given: Given) -> str:
    passage = given.passage
    return f"--- [{given.number}] {shown_path(passage.path)}:{passage.first_line}-{passage.last_line}"


def _timings_line(answer: Answer) -> str:
    timings = answer.timings
    parts = [str(answer.model), f"search {timings.search_ms:.0f} ms", f"load {timings.load_ms / 1000:.1f} s"]
    parts.append(f"first token {timings.first_token_ms / 1000:.1f} s")
    parts.append(f"{timings.engine.prompt:,} tokens read at {timings.engine.prefill_per_second:.0f}/s")
    parts.append(f"{timings.engine.predicted:,} written at {timings.engine.decode_per_second:.0f}/s")
    return " · ".join([*parts, f"total {timings.total_ms / 1000:.1f} s"])


def as_json(answer: Answer, *, show: bool) -> dict[str, Any]:
    """Return an answer as a JSON document; with ``show``, the passages that the model was given are in it."""
    timings = answer.timings
    engine = timings.engine
    document: dict[str, Any] = {
        "question": answer.question,
        "found": answer.found,
        "answer": answer.text,
        "citations": [
            {
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
            for citation in answer.citations
        ],
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
