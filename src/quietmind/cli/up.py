"""``quietmind up``: models kept running behind one address."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from quietmind.base.paths import shown_path
from quietmind.base.units import format_bytes
from quietmind.cli.entrance import entrance_options
from quietmind.cli.options import State, debug_option, json_option, model_options, pass_state, workspace_option
from quietmind.cli.output import print_json

if TYPE_CHECKING:
    from quietmind.plan.plan import Plan
    from quietmind.serve.entrance import Entrance
    from quietmind.serve.up import Serving
    from quietmind.workspace.launch import Start
    from quietmind.workspace.running import Running

_END = "end it with Ctrl-C here or `quietmind down`"


@click.command()
@click.argument("models", nargs=-1)
@click.option("--engine", default="llama.cpp", help="What runs them (default: llama.cpp, in a child of ours).")
@model_options
@click.option("--experts", type=click.IntRange(min=1), help="Experts at work for each token (default: as trained).")
@entrance_options()
@click.option(
    "--time-limit", type=click.FloatRange(min=1), default=21600, help="Longest answer in seconds (default: 6 hours)."
)
@json_option
@workspace_option
@debug_option
@pass_state
@click.pass_context
def up(
    ctx: click.Context,
    state: State,
    models: tuple[str, ...],
    engine: str,
    context: int | None,
    kv: str,
    threads: int | None,
    experts: int | None,
    entrance: Entrance,
    time_limit: float,
    as_json: bool,
    workspace: Path,
) -> None:
    """Keep MODELS running, and serve them and the notes at one address of this machine until Ctrl-C.

    Without MODELS, the one that the settings name. Several are planned under one memory budget; the first has what the
    others leave, and answers from the notes. A crash, a hang or a lack of memory is told, and the engine is started
    again.
    """
    from quietmind.plan.ask import Ask
    from quietmind.plan.engines import default_kv_type
    from quietmind.serve.limits import Limits
    from quietmind.serve.up import Wanted
    from quietmind.serve.up import up as keep_up

    if ctx.get_parameter_source("kv") is not ParameterSource.COMMANDLINE:
        kv = default_kv_type(engine, kv)
    wanted = Wanted(
        names=models or (state.settings.model,),
        ask=Ask(context, kv, threads=threads, experts_used=experts, engine=engine),
        workspace=Path(os.path.abspath(workspace)),  # noqa: PTH100 - resolve() would follow links
        entrance=entrance,
        limits=Limits(answer=time_limit),
        settings=state.settings,
    )
    if (warning := entrance.warning) is not None:
        _tell(warning)

    def planned(start: Start) -> None:
        for line in _planned(start.plan):
            _tell(line)

    def ready(serving: Serving) -> None:
        if as_json:
            print_json(_as_json(serving))
        else:
            outside = "" if serving.outside_url is None else f", for others at {serving.outside_url}/v1"
            key = _key_words(serving.key_file)
            click.echo(f"serving {', '.join(serving.names)} at {serving.url}/v1{outside}{key}; {_END}")
            _tell(f"  a page for your browser: {serving.url}")
            if serving.new_key is not None and sys.stdout.isatty():
                click.echo(f"the key, which is shown this once: {serving.new_key}")
        sys.stdout.flush()

    found = keep_up(wanted, _tell, planned, ready)
    if found is None:
        _tell("ended")
    elif as_json:
        print_json(_found_json(found))
    else:
        already = "runs already" if found.state == "serving" else "is being started by another `quietmind up`"
        click.echo(f"{', '.join(found.models)} {already} at {found.url}/v1; end it with `quietmind down`")


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _planned(plan: Plan) -> list[str]:
    """Return what will run, in a few lines: where it takes how much memory, how fast it is, what to know of it."""
    held = ", ".join(f"{format_bytes(use.needed_bytes)} on {use.device}" for use in plan.devices if use.needed_bytes)
    lines = [f"{plan.title}: {plan.engine}, context {plan.context:,}, KV {plan.kv_type}, {held}"]
    if plan.speed is not None:
        from quietmind.plan.table import shown

        decode, prefill = shown(plan.speed.decode), shown(plan.speed.prefill)
        lines.append(f"  with its context full it decodes {decode} and prefills {prefill} tokens/s")
    else:
        lines.append("  its speed is unknown; `quietmind machine --measure` finds out")
    if plan.verdict == "tight":
        lines.append("  warning: memory is tight; see `quietmind plan`")
    return [*lines, *(f"  warning: {warning}" for warning in plan.warnings)]


def _key_words(key_file: Path | None) -> str:
    return "" if key_file is None else f", for those who know the key in {shown_path(key_file)}"


def _as_json(serving: Serving) -> dict[str, Any]:
    from quietmind.plan.table import interval_to_json

    return {
        "url": serving.url,
        "outside_url": serving.outside_url,
        "pid": os.getpid(),
        "found": False,
        "key_file": None if serving.key_file is None else str(serving.key_file),
        "models": [
            {
                "name": name,
                "engine": start.plan.engine,
                "context": start.plan.context,
                "kv_type": start.plan.kv_type,
                "bytes": {use.device: use.needed_bytes for use in start.plan.devices},
                "decode": interval_to_json(start.plan.speed.decode if start.plan.speed else None),
                "prefill": interval_to_json(start.plan.speed.prefill if start.plan.speed else None),
            }
            for name, start in zip(serving.names, serving.starts, strict=True)
        ],
    }


def _found_json(found: Running) -> dict[str, Any]:
    return {
        "url": found.url,
        "pid": found.pid,
        "found": True,
        "state": found.state,
        "key_file": found.key_file,
        "models": [{"name": name} for name in found.models],
    }
