"""``quietmind launch MODELS --as service``: a file with which the system keeps `quietmind up` running."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from quietmind.base.errors import UsageError
from quietmind.base.paths import measured_machines_file, shown_path

if TYPE_CHECKING:
    from quietmind.plan.ask import Ask
    from quietmind.serve.entrance import Entrance
    from quietmind.serve.service import Form

SERVICES = ("service", "launchd")
# What `quietmind up` takes of what `quietmind launch` takes; its engine's file and machine are those that are here.
_PASSED_ON = ("engine", "context", "kv", "threads", "experts", "port")
_OF_ONE_ENGINE = ("program", "weights", "machine", "quant", "sequences", "gpus", "nodes")


def service_text(ctx: click.Context, models: tuple[str, ...], workspace: Path, entrance: Entrance) -> str:
    """Return the file. Raises UsageError, ModelError, and DoesNotFit with the ledger for what could not be kept up."""
    from quietmind.serve.service import RENDER, Service
    from quietmind.serve.service.service import KEPT, up_command

    for name in _OF_ONE_ENGINE:
        if _given(ctx, name):
            raise UsageError(f"--{name} is of a file for one engine; a service runs what `quietmind up` takes")
    workspace = Path(os.path.abspath(workspace))  # noqa: PTH100 - resolve() would follow links
    settled = entrance.settled(workspace)
    _require_room(ctx, models)
    found = Service(
        models=models,
        command=up_command(tuple(map(_whole, models)), tuple(_options(ctx, workspace, entrance))),
        workspace=workspace,
        environment={name: os.environ[name] for name in KEPT if os.environ.get(name)},
        writable=tuple(_writable(workspace, settled.key_file)),
        shared=settled.shared,
        written=shlex.join(["quietmind", *sys.argv[1:]]),
    )
    return RENDER[form_of(ctx.params["form"])](found)


def form_of(asked: str) -> Form:
    """Return the form that ``--as`` names: the one of this system for ``service``."""
    from quietmind.serve.service import usual_form

    return "launchd" if asked == "launchd" else usual_form()


def write_service(asked: str, text: str, workspace: Path, *, force: bool) -> None:
    """Write the file where the service manager looks for it, and say with which commands it is used."""
    from quietmind.cli.launch import write_file
    from quietmind.serve.service import commands, place_of

    form = form_of(asked)
    place = place_of(form)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        workspace.mkdir(mode=0o700, parents=True, exist_ok=True)  # which the service may write to, but not make
    except OSError as error:
        raise UsageError(f"{shown_path(place.parent)}: cannot be made: {error.strerror}; print it instead") from error
    write_file(place, text, force=force, executable=False)
    click.echo(shown_path(place))
    for name, command in commands(form).items():
        click.echo(f"  {name + ':':<14} {command}")


def _options(ctx: click.Context, workspace: Path, entrance: Entrance) -> Iterator[str]:
    """Yield what was said on the command line, for `quietmind up`; what the settings say it reads itself."""
    for name in _PASSED_ON:
        if _given(ctx, name):
            yield from (f"--{name}", str(ctx.params[name]))
    if _given(ctx, "host"):
        yield from ("--host", entrance.host)
    for name, file in (
        ("--key-file", entrance.key_file),
        ("--tls-cert", entrance.certificate),
        ("--tls-key", entrance.certificate_key),
    ):
        if file is not None:
            yield from (name, str(file.absolute()))
    for name, values in (("--allow-host", entrance.hosts), ("--allow-origin", entrance.origins)):
        for value in values:
            yield from (name, value)
    yield from ("--workspace", str(workspace))


def _writable(workspace: Path, key_file: Path | None) -> Iterator[Path]:
    yield workspace
    yield measured_machines_file().parent
    if key_file is not None and not key_file.exists() and not key_file.is_relative_to(workspace):
        yield key_file.absolute().parent


def _require_room(ctx: click.Context, models: tuple[str, ...]) -> None:
    """Raise what `quietmind up` would raise of these models, now rather than at the service's start."""
    from quietmind.cli.launch import refuse_too_large
    from quietmind.workspace.launch import prepare
    from quietmind.workspace.together import asked_of, together

    ask = _ask(ctx)
    asked_of(models, ask)
    starts = [prepare(name, ask, None, lambda line: click.echo(line, err=True)) for name in models]
    for start in together(starts).starts:
        refuse_too_large(start.plan)


def _ask(ctx: click.Context) -> Ask:
    from quietmind.plan.ask import Ask
    from quietmind.plan.engines import default_kv_type, engine_kind

    said = ctx.params
    engine = said["engine"] or "llama.cpp"
    engine_kind(engine)
    kv = said["kv"] if _given(ctx, "kv") else default_kv_type(engine, said["kv"])
    return Ask(said["context"], kv, threads=said["threads"], experts_used=said["experts"], engine=engine)


def _whole(model: str) -> str:
    """Return the name of a model as it means the same in any folder."""
    return str(Path(model).absolute()) if Path(model).exists() else model


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
