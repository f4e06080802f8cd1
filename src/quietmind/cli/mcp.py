"""``quietmind mcp``: the archive for an assistant that speaks MCP and starts us."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quietmind.base.errors import EngineMissing
from quietmind.cli.amounts import LENGTH
from quietmind.cli.options import AnyPath, State, debug_option, model_options, pass_state, workspace_option
from quietmind.cli.output import visible, warn

if TYPE_CHECKING:
    from quietmind.workspace.asked_model import AskedModel
    from quietmind.workspace.workspace import Workspace

_TO_PEOPLE = "an assistant is to start this, and speaks MCP with it through standard input and output; Ctrl-C ends it"


@click.command()
@click.option("--model", help="The model that `ask` uses, as for `quietmind ask` (default: tiny).")
@model_options
@click.option("--allow-remote", multiple=True, metavar="HOST", help="Consent that notes are sent to this other host.")
@click.option("--key-file", type=AnyPath(dir_okay=False), help="The file with the key of a model at an address.")
@click.option(
    "--idle", type=LENGTH, default="10m", show_default=True, help="Let the model go after so long without a question."
)
@workspace_option
@debug_option
@pass_state
def mcp(
    state: State,
    model: str | None,
    context: int | None,
    kv: str,
    threads: int | None,
    allow_remote: tuple[str, ...],
    key_file: Path | None,
    idle: float,
    workspace: Path,
) -> None:
    """Let an assistant search, read and ask the notes: MCP on standard input and output.

    Made to be started by the assistant, and ends with it. It only reads. The model is started by the first question
    that needs it, or borrowed where `quietmind up` runs it.
    """
    import asyncio

    try:
        from quietmind.serve.mcp_stdio import OwnNotes, serve_stdio
    except ModuleNotFoundError as error:
        raise EngineMissing(f"MCP takes more packages ({error}): pip install 'quietmind[mcp]'") from error
    from quietmind.plan.plan import Ask
    from quietmind.workspace.asked_model import AskedModel

    settings, name = state.settings, model or state.settings.model
    run = Ask(context, kv, threads=threads)

    def asked(archive: Workspace, waiting: Callable[[int], None]) -> AskedModel:
        return AskedModel(name, archive, run, settings, _tell, waiting, allow_remote, key_file)

    async def serve() -> None:
        notes = OwnNotes(workspace.absolute(), settings, name, asked, _tell, idle)
        if not await serve_stdio(notes, settings):
            sys.stderr.flush()
            os._exit(0)  # a thread still waits for the client's next word

    if sys.stdin.isatty():
        click.echo(_TO_PEOPLE, err=True)
    asyncio.run(serve())


def _tell(line: str) -> None:
    warn(visible(line))
