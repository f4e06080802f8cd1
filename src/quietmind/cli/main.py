"""The ``quietmind`` command: finds the subcommand, and turns every failure into one line and an exit code.

Exit codes: 0 done, 1 it could not be done (one line says why and what to do), 2 wrong usage, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

import quietmind
from quietmind.base.errors import DoesNotFit, EngineGivenUp, QuietmindError
from quietmind.cli.options import State, debug_option

# Name -> (module that holds a command of this name, what --help says). Only the chosen module is imported.
_COMMANDS = {
    "pull": ("quietmind.cli.pull", "Fetch the weights of a model."),
    "index": ("quietmind.cli.index", "Bring the index of a folder of notes up to date."),
    "watch": ("quietmind.cli.watch", "Keep the index in step with the notes while they change."),
    "embed": ("quietmind.cli.embed", "Let notes be found by meaning: make vectors, in the background."),
    "status": ("quietmind.cli.status", "Say what is indexed, how current that is, and what is skipped and why."),
    "search": ("quietmind.cli.search", "Find passages in the indexed notes."),
    "eval": ("quietmind.cli.eval", "Measure how well notes are found, by questions made of them."),
    "links": ("quietmind.cli.links", "Show what notes lead to, what leads to them, and what leads nowhere."),
    "ask": ("quietmind.cli.ask", "Answer a question from the notes, with checked citations."),
    "notebook": (
        "quietmind.cli.notebook",
        "Make and list notebooks: selections of notes that the model reads once.",
    ),
    "read": ("quietmind.cli.read", "Read the notebooks that are due, so that questions need not wait."),
    "calibrate": ("quietmind.cli.calibrate", "Learn how a model's snapshots are made many times smaller."),
    "plan": ("quietmind.cli.plan", "Say what a model takes in memory on this machine, before loading it."),
    "launch": (
        "quietmind.cli.launch",
        "Write a file that starts a model as planned: a script, a unit, a compose file.",
    ),
    "up": ("quietmind.cli.up", "Keep models running behind one OpenAI-compatible address of this machine."),
    "mcp": ("quietmind.cli.mcp", "Let an assistant that speaks MCP search, read and ask the notes."),
    "down": ("quietmind.cli.down", "End what `quietmind up` keeps running."),
    "doctor": (
        "quietmind.cli.doctor",
        "Say what hinders here, and what would be faster, with the command that mends it.",
    ),
    "experts": ("quietmind.cli.experts", "Say what a mixture of experts holds, and what a token reads of it."),
    "hardware": ("quietmind.cli.hardware", "Say which machines, and which upgrade of this one, would run a model."),
    "models": ("quietmind.cli.models", "List the models that can be planned by name, and those that are here."),
    "machine": ("quietmind.cli.machine", "Say what this computer is made of, or a machine of the catalogue."),
    "bench": ("quietmind.cli.bench", "Measure how fast a model runs here, beside what was predicted."),
}
_STOPPED_BY_PERSON = 130
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class _LazyCommands(click.Group):
    """A group that imports a command only when it is called: ``quietmind --help`` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(_COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(quietmind.__version__, prog_name="quietmind")
@debug_option
def cli() -> None:
    """Read a private archive of notes with a local model, and answer with citations checked against the files.

    Nothing leaves this machine. The network is used by `quietmind pull`, to fetch weights, and where a model is named
    hf:OWNER/NAME or by a URL, to read its header; by nothing else.
    """


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names need not be valid text
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] != ["pull"]:  # weights are nobody's secret, and may be shared
        os.umask(0o077)  # what is read of notes is: whatever is written of it, and the engines write, is the person's
    try:
        code = _run(arguments)
        if sys.stdout is not None:  # closed by whoever started us
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        _drop_output()
        code = 1
    except OSError as error:  # of standard output: those of files end in _run
        _drop_output()
        click.echo(f"quietmind: standard output: {error.strerror}; free some space, or send it elsewhere", err=True)
        code = 1
    sys.exit(code)


def _drop_output() -> None:
    """Let what was not written yet go nowhere, so that the interpreter's last flush finds nothing to complain of."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage_line(error: click.ClickException) -> str:
    """Return what is wrong with the command line, in one line."""
    context = getattr(error, "ctx", None)
    said = " ".join(error.format_message().split()).replace("a valid integer range", "a whole number")
    said = said if said.endswith((".", "?", "!")) else f"{said}."
    return f"{said} See `{context.command_path} --help`." if context is not None else said


def _run(arguments: list[str]) -> int:
    state = State()
    try:
        result = cli.main(arguments, prog_name="quietmind", standalone_mode=False, obj=state)
    except click.ClickException as error:
        click.echo(f"quietmind: {_usage_line(error)}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return _STOPPED_BY_PERSON
    except QuietmindError as error:
        if state.debug:
            raise
        if isinstance(error, DoesNotFit) and error.ledger:
            click.echo(error.ledger, err=True)
        if isinstance(error, EngineGivenUp) and error.log:
            click.echo("The last lines of its log:\n" + "\n".join(f"    {line}" for line in error.log), err=True)
        click.echo(f"quietmind: {error}", err=True)
        return error.exit_code
    except BrokenPipeError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM and error.filename is None:
            raise  # from writing to standard output
        if state.debug:
            raise
        said = " ".join(str(error).split())
        click.echo(
            f"quietmind: unexpected {type(error).__name__}: {said}; run again with --debug to see where", err=True
        )
        return 1
    return result if isinstance(result, int) else 0
