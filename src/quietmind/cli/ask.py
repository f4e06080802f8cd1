"""``quietmind ask``: a question to the archive."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quietmind.base.errors import UsageError
from quietmind.base.paths import shown_path
from quietmind.cli.options import (
    TOKENS,
    AnyPath,
    State,
    debug_option,
    json_option,
    model_options,
    pass_state,
    workspace_option,
)
from quietmind.cli.output import counted, flat, print_json, visible, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.status import Status

    from quietmind.engine.port import Engine
    from quietmind.think.answer import Answer, Event
    from quietmind.think.verify import Citation
    from quietmind.workspace.pack import Given

_NOTHING = "Nothing in the indexed notes is about this, so the model was not asked."
_UNSUPPORTED = "[?] no passage that the model was given supports this sentence; treat it as the model's own words."
_CLOSEST_BESIDE = "Closest to the question in the notes:"
_CLOSEST_INSTEAD = "No sentence of the answer stands in the notes. What comes closest to the question there:"
_STANDINGS = {
    "verified": "",
    "edited": "  (the file has changed around these words since it was indexed)",
    "moved": "  (moved since indexing; these are its lines now)",
    "changed": "  (NOT VERIFIED: changed since indexing, the words no longer stand in the file; run `quietmind index`)",
    "gone": "  (NOT VERIFIED: the file can no longer be read; run `quietmind index`)",
}


@click.command()
@click.argument("question")
@click.option("--model", help="A model's name, file or hf:REPO/FILE, or http://HOST:PORT#NAME (default: tiny).")
@model_options
@click.option("--allow-remote", multiple=True, metavar="HOST", help="Consent that notes are sent to this other host.")
@click.option("--key-file", type=AnyPath(dir_okay=False), help="The file with the key of a model at an address.")
@click.option("--passages", type=click.IntRange(1, 1000), help="Most passages to give the model (default: 6).")
@click.option("--max-tokens", type=TOKENS, help="Longest answer in tokens (default: 512).")
@click.option("--show", is_flag=True, help="Print the passages that the model was given.")
@click.option("--save", type=AnyPath(dir_okay=False), help="Also write the answer to FILE as JSON.")
@json_option
@workspace_option
@debug_option
@pass_state
def ask(
    state: State,
    question: str,
    model: str | None,
    context: int | None,
    kv: str,
    threads: int | None,
    allow_remote: tuple[str, ...],
    key_file: Path | None,
    passages: int | None,
    max_tokens: int | None,
    show: bool,
    save: Path | None,
    as_json: bool,
    workspace: Path,
) -> None:
    """Answer QUESTION from the notes, with citations checked against the files."""
    from quietmind.plan.plan import Ask
    from quietmind.think.ask import ask as ask_archive
    from quietmind.workspace.address import KEY_VARIABLE, connect_to, is_address
    from quietmind.workspace.launch import launch
    from quietmind.workspace.workspace import Workspace

    settings = state.settings
    if save and not os.path.isdir(save.parent):  # noqa: PTH112 - a Path raises for names that cannot be looked at
        raise UsageError(f"{shown_path(save)}: there is no such folder to save the answer in; make it first")

    def start_engine() -> Engine:
        if is_address(wanted := model or settings.model):
            key = key_file or (KEY_VARIABLE if KEY_VARIABLE in os.environ else None)
            return connect_to(wanted, context=context, allow_remote=allow_remote, key=key, warn=_warn)
        asked = Ask(context, kv, threads=threads)
        return launch(wanted, asked, archive.logs, archive.folder, warn=_warn)

    with Workspace(workspace) as archive:
        events = ask_archive(
            archive,
            question,
            start_engine,
            passages=passages or settings.passages,
            max_tokens=max_tokens or settings.max_tokens,
        )
        answer = _follow(events, stream=not as_json)
    if as_json:
        print_json(_as_json(answer, show=show))
    else:
        _print(answer, show=show)
    if save:
        write_json(save, _as_json(answer, show=show))


def _warn(warning: str) -> None:
    click.echo(f"warning: {warning}", err=True)


def _follow(events: Iterable[Event], *, stream: bool) -> Answer:
    """Show events as they come; return the answer."""
    from quietmind.think.answer import Answer, Found, Loading, Text

    waiting, answer, shown = _Waiting(), None, False
    try:
        for event in events:
            waiting.stop()
            if isinstance(event, Loading):
                waiting.start("loading the model")
            elif isinstance(event, Found):
                if event.given:
                    waiting.start(f"reading {counted(len(event.given), 'passage')}, {event.tokens:,} tokens")
            elif isinstance(event, Answer):
                answer = event
            elif stream and isinstance(event, Text):
                click.echo(visible(event.text), nl=False)
                sys.stdout.flush()
                shown = True
    finally:
        waiting.stop()
        if shown and answer is None:  # what comes next is an error, on a line of its own
            click.echo()
    assert answer is not None, "ask() ends with an Answer or raises"
    return answer


class _Waiting:
    """A spinner, on a terminal only."""

    def __init__(self) -> None:
        self._status: Status | None = None

    def start(self, what: str) -> None:
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status(what)
            self._status.start()

    def stop(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def _print(answer: Answer, *, show: bool) -> None:
    if not answer.found:
        click.echo(_NOTHING)
        return
    click.echo("\n" if answer.text else "The model answered nothing.\n")
    if answer.stopped_early:
        click.echo(f"({answer.stopped_early})")
    if answer.unsupported:
        click.echo(_UNSUPPORTED)
    borne = [citation for citation in answer.citations if citation.supports]
    for citation in borne:
        click.echo(_citation_line(citation))
    if len(borne) < len(answer.citations):
        click.echo(_CLOSEST_BESIDE if borne else _CLOSEST_INSTEAD)
    for citation in answer.citations[len(borne) :]:
        click.echo(_citation_line(citation))
    if show:
        for given in answer.given:
            click.echo(f"\n{_given_line(given)}\n{visible(given.passage.text)}")
    click.echo(_timings_line(answer), err=True)


def _citation_line(citation: Citation) -> str:
    place = f"{shown_path(citation.path)}:{citation.first_line}-{citation.last_line}"
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


def _as_json(answer: Answer, *, show: bool) -> dict[str, Any]:
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
