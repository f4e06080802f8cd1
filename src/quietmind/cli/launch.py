"""``quietmind launch``: write a file that starts a model as planned, for whoever wants to run it themselves."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from quietmind.base.errors import DoesNotFit, EngineMissing, UsageError
from quietmind.base.files import write_whole
from quietmind.base.paths import shown_path
from quietmind.cli.entrance import entrance_options
from quietmind.cli.launch_service import SERVICES, service_text, write_service
from quietmind.cli.options import AnyPath, debug_option, model_options, workspace_option

if TYPE_CHECKING:
    from quietmind.engine.installed import Installed
    from quietmind.model.card import ModelCard
    from quietmind.plan import Plan
    from quietmind.serve.entrance import Entrance

_FORMS = ("shell", "python", "systemd", "compose", "webui")
_RUN_DIRECTLY = ("shell", "python")
_RUN_HERE = (*_RUN_DIRECTLY, "systemd")  # with the engine that is installed; the others bring their own
_PORTS = click.IntRange(1024, 65535)


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--as", "form", type=click.Choice((*_FORMS, *SERVICES)), default="shell", show_default=True, help="What to write."
)
@click.option("--engine", help="llama.cpp, llama-server, vllm or sglang (default: the llama.cpp that is here).")
@click.option("--program", type=AnyPath(dir_okay=False), help="Path of the engine's program, where it will run.")
@click.option("--weights", type=AnyPath(), help="Path of the model's weights, where it will run (default: as found).")
@click.option("--machine", help="A machine of the catalogue, or a TOML file (default: this one).")
@click.option("--quant", help="Quantization, for a model of the catalogue: Q4_K_M, Q8_0, F16, FP8, GPTQ-INT4, ...")
@model_options
@click.option("--experts", type=click.IntRange(min=1), help="Experts at work in each layer (default: as trained).")
@click.option("--sequences", type=click.IntRange(min=1), help="Requests answered at once (default: 1).")
@click.option("--gpus", type=click.IntRange(min=1), help="With vllm and sglang: GPUs of a machine to use at most.")
@click.option("--nodes", type=click.IntRange(min=1), default=1, help="With vllm and sglang: machines alike.")
@entrance_options(port=click.option("--port", type=_PORTS, help="Port to listen on (default: 8087; a service: 4874)."))
@click.option("--output", type=AnyPath(dir_okay=False), help="File to write (default: print it).")
@click.option("--write", is_flag=True, help="Of a service: write it to where the system looks for it.")
@click.option("--force", is_flag=True, help="Write over a file that is there already.")
@workspace_option
@debug_option
@click.pass_context
def launch(
    ctx: click.Context,
    models: tuple[str, ...],
    form: str,
    engine: str | None,
    program: Path | None,
    weights: Path | None,
    machine: str | None,
    quant: str | None,
    context: int | None,
    kv: str,
    threads: int | None,
    experts: int | None,
    sequences: int | None,
    gpus: int | None,
    nodes: int,
    entrance: Entrance,
    output: Path | None,
    write: bool,
    force: bool,
    workspace: Path,
) -> None:
    """Write a file that starts MODEL as planned: with the same flags, on the loopback, with hubs switched off.

    MODEL is what `quietmind plan` takes. The file says at its head what memory and speed to expect, and how to stop it.
    `--as service` writes one that keeps `quietmind up` of one MODEL or several running, from login on.
    """
    if form in SERVICES:
        text = service_text(ctx, models, workspace, entrance)
        if write:
            write_service(form, text, workspace, force=force)
        else:
            _give(text, output, force=force, executable=False)
        return
    if len(models) > 1 or write or entrance != replace(type(entrance)(), port=entrance.port):
        raise UsageError(f"--as {form} starts the engine of one model, on the loopback; --as service takes the rest")
    (model,), port = models, entrance.port
    from quietmind.engine import launch_files
    from quietmind.engine.installed import require_flags
    from quietmind.engine.launch_files.launch import PORT, options, usual_program
    from quietmind.plan import Ask
    from quietmind.plan.engines import default_kv_type
    from quietmind.workspace.lineup import machine_named, planner_for

    on = machine_named(machine)
    installed = _installed(engine, program) if machine is None and form in _RUN_HERE else None
    key = installed.key if installed else engine or "llama-server"
    start, *rest = usual_program(key)
    card = _card(model, quant, weights)
    if ctx.get_parameter_source("kv") is not ParameterSource.COMMANDLINE:
        kv = default_kv_type(key, kv)
    ask = Ask(context=context, kv_type=kv, threads=threads, experts_used=experts, sequences=sequences or 1)
    planned = planner_for(on, workspace)(on, card, replace(ask, engine=key, gpus=gpus, nodes=nodes))
    refuse_too_large(planned)
    found = launch_files.Launch(
        plan=planned,
        card=card,
        program=(installed.program[0] if installed else str(program or start), *rest),
        version=installed.version if installed else None,
        known=installed.flags if installed else frozenset(),
        command=shlex.join(["quietmind", *sys.argv[1:]]),
        port=port or PORT,
    )
    text = launch_files.FORMS[form](found)
    if installed is not None:
        require_flags(installed, options(found))
    _give(text, output, force=force, executable=form in _RUN_DIRECTLY)


def _give(text: str, output: Path | None, *, force: bool, executable: bool) -> None:
    if output is None:
        click.echo(text, nl=False)
    else:
        write_file(output, text, force=force, executable=executable)
        click.echo(shown_path(output))


def _card(model: str, quant: str | None, weights: Path | None) -> ModelCard:
    """Return the model with the path that it will have where the file runs."""
    from quietmind.model.open import open_card

    card = open_card(model, quant)
    if weights is not None:
        return replace(card, path=weights)
    return replace(card, path=card.path.absolute()) if card.path.exists() else card


def _installed(key: str | None, program: Path | None) -> Installed:
    """Return the engine that is here. Raises EngineMissing with what installs it."""
    from quietmind.engine.installed import find

    if key is not None or program is not None:
        return find(key or "llama-server", program)
    try:
        return find("llama-server")
    except EngineMissing:
        return find("llama.cpp")


def refuse_too_large(planned: Plan) -> None:
    """Raise DoesNotFit, with the ledger, for a plan that finds no room."""
    if planned.verdict == "does not fit":
        from quietmind.plan.render import render

        raise DoesNotFit(
            f"{planned.model} does not fit into {planned.machine} at a context of {planned.context:,}; choose a "
            "smaller model, a smaller --context or --kv q8_0",
            ledger=render(planned),
        )


def write_file(file: Path, text: str, *, force: bool, executable: bool) -> None:
    """Write the whole of ``text`` or nothing, and never over another file unasked. Raises UsageError."""
    shown = shown_path(file)
    if not force and (file.exists() or file.is_symlink()):
        raise UsageError(f"{shown}: is there already; choose another file, or write over it with --force")
    try:
        write_whole(file, text.encode())
        file.chmod(0o755 if executable else 0o644)
    except OSError as error:
        raise UsageError(f"{shown}: cannot be written: {error.strerror}; choose another file") from error
