"""``quietmind ask``: a question to the archive."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quietmind.base.errors import UsageError
from quietmind.base.paths import shown_path
from quietmind.base.progress import terminal_progress
from quietmind.cli.answer import print_answer
from quietmind.cli.filters import filter_options, warn_of_unread
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
from quietmind.cli.output import counted, print_json, tell_place, visible, warn, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.status import Status

    from quietmind.notes.filtering import Filter
    from quietmind.think.answer import Answer, Event


@click.command()
@click.argument("question")
@click.option("--model", help="A model's name, file or hf:REPO/FILE, or http://HOST:PORT#NAME (default: tiny).")
@model_options
@click.option("--allow-remote", multiple=True, metavar="HOST", help="Consent that notes are sent to this other host.")
@click.option("--key-file", type=AnyPath(dir_okay=False), help="The file with the key of a model at an address.")
@click.option("--notebook", metavar="NAME", help="Ask this notebook; it is read now if it is not yet.")
@click.option("--deep", is_flag=True, help="Ask every notebook that holds evidence, and join what they answer.")
@filter_options
@click.option(
    "--passages", type=click.IntRange(1, 1000), help="Ask no notebook: give the model at most so many passages (6)."
)
@click.option(
    "--rerank/--no-rerank", default=None, help="Have the model judge first which passages it is given (default: no)."
)
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
    notebook: str | None,
    deep: bool,
    within: Filter | None,
    passages: int | None,
    rerank: bool | None,
    max_tokens: int | None,
    show: bool,
    save: Path | None,
    as_json: bool,
    workspace: Path,
) -> None:
    """Answer QUESTION from the notes, with citations checked against the files.

    Where the notebook that holds the evidence is read, it is restored and answers whole; otherwise the best passages
    are given to the model, and always those that a filter leaves (--in to --speaker).
    """
    from quietmind.plan.plan import Ask
    from quietmind.think.ask import ask as ask_archive
    from quietmind.think.deep import ask_deep
    from quietmind.think.telling import as_json as answer_as_json
    from quietmind.workspace.asked_model import AskedModel
    from quietmind.workspace.elsewhere import searched_elsewhere
    from quietmind.workspace.embedding import searcher
    from quietmind.workspace.workspace import Workspace

    settings = state.settings
    _require_one_way(notebook, within, deep=deep, passages=passages)
    if save and not os.path.isdir(save.parent):  # noqa: PTH112 - a Path raises for names that cannot be looked at
        raise UsageError(f"{shown_path(save)}: there is no such folder to save the answer in; make it first")
    with Workspace(workspace) as archive:
        elsewhere = searched_elsewhere(archive.folder, settings, allow_remote, warn)
        archive.search_with(searcher(archive.folder, settings.embedder, allow_remote, warn, elsewhere))
        run = Ask(context, kv, threads=threads)
        answering = AskedModel(
            model or settings.model, archive, run, settings, warn, tell_place, allow_remote, key_file
        )
        most, longest = passages or settings.passages, max_tokens or settings.max_tokens
        warn_of_unread(archive, within)
        if deep:
            events = ask_deep(archive, question, answering.start, answering.desk, passages=most, max_tokens=longest)
        else:
            desk = None if passages is not None else answering.desk
            events = ask_archive(
                archive,
                question,
                answering.start,
                passages=most,
                max_tokens=longest,
                desk=desk,
                notebook=notebook,
                rerank=settings.rerank if rerank is None else rerank,
                within=within,
                progress=terminal_progress,
            )
        answer = _follow(events, stream=not as_json)
    if as_json:
        print_json(answer_as_json(answer, show=show))
    else:
        print_answer(answer, show=show)
    if save:
        write_json(save, answer_as_json(answer, show=show))


def _require_one_way(notebook: str | None, within: Filter | None, *, deep: bool, passages: int | None) -> None:
    """Raise UsageError where the options ask in two ways at once."""
    if sum((notebook is not None, deep, passages is not None)) > 1:
        raise UsageError("--notebook asks one notebook, --deep every one and --passages none; give one of them")
    if within is not None and (deep or notebook is not None):
        raise UsageError("notebooks are asked as a whole; leave out the filter (--in to --speaker), or the notebooks")


def _follow(events: Iterable[Event], *, stream: bool) -> Answer:
    """Show events as they come; return the answer."""
    from quietmind.think.answer import Answer, Found, Loading, Notice, TakingUp, Text

    waiting, answer, shown = _Waiting(), None, False
    try:
        for event in events:
            waiting.stop()
            if isinstance(event, Loading):
                waiting.start("loading the model")
            elif isinstance(event, TakingUp):
                waiting.start(f"restoring notebook {visible(event.notebook)}")
            elif isinstance(event, Notice):
                click.echo(visible(event.text), err=True)
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
