"""How an answer is printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from quietmind.base.paths import shown_path
from quietmind.cli.amounts import shown_time
from quietmind.cli.output import visible

if TYPE_CHECKING:
    from quietmind.think.answer import Answer, FromNotebook
    from quietmind.workspace.pack import Given


def print_answer(answer: Answer, *, show: bool) -> None:
    """Print what stands behind the text of an answer, which has been shown while it came; ``show``: passages too."""
    from quietmind.think.telling import citation_lines, remarks

    if answer.text:
        click.echo("\n")
    for line in (*remarks(answer), *citation_lines(answer, shown_path)):
        click.echo(visible(line))
    if not answer.found:
        return
    if show:
        for given in answer.given:
            click.echo(f"\n{_given_line(given)}\n{visible(given.passage.text)}")
    click.echo(_timings_line(answer), err=True)
    for used in (answer.notebook, *(part.whole for part in answer.parts)):
        if used is not None:
            click.echo(saved_line(used), err=True)


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
