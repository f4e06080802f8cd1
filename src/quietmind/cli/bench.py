"""``quietmind bench``: a model's speed on this machine, predicted and then measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quietmind.base.errors import UsageError
from quietmind.base.units import format_bytes, parse_tokens
from quietmind.cli.options import State, debug_option, json_option, pass_state, workspace_option
from quietmind.cli.output import print_json

if TYPE_CHECKING:
    from quietmind.workspace.bench import Expected, Shown


@click.command()
@click.argument("model")
@click.option("--context", "contexts", default="4k", show_default=True, help="Contexts to fill, such as 4k,32k.")
@click.option("--kv", help="Type of the KV cache: f16, q8_0, q4_0, ... (default: f16).")
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads (default: cores).")
@json_option
@workspace_option
@debug_option
@pass_state
def bench(
    state: State, model: str, contexts: str, kv: str | None, threads: int | None, as_json: bool, workspace: Path
) -> None:
    """Measure how fast MODEL prefills and decodes with its context full, beside what was predicted.

    What is measured is remembered in the workspace, and corrects every later prediction for this machine.
    """
    from quietmind.plan.measured import Measurement
    from quietmind.plan.plan import Ask
    from quietmind.workspace.bench import Expected, Shown
    from quietmind.workspace.bench import bench as bench_model
    from quietmind.workspace.workspace import Workspace

    wanted = [parse_tokens(part) for part in contexts.split(",") if part.strip()]
    if not wanted:
        raise UsageError("no context was given; write --context 4k or --context 4k,32k")
    ask = Ask(kv_type=state.settings.kv if kv is None else kv, threads=threads or state.settings.threads)
    expected: dict[int, Expected] = {}
    rows: list[dict[str, Any]] = []
    resident = 0
    with Workspace(workspace, create=True) as archive:
        for step in bench_model(model, ask, wanted, archive.logs, archive.folder):
            if isinstance(step, Expected):
                expected[step.context] = step
            elif isinstance(step, Shown):
                rows.append(_row(expected[step.context], step))
            elif isinstance(step, Measurement):
                resident = int(step.value)
            if not as_json and not isinstance(step, Measurement):
                click.echo(_line(step))
    if as_json:
        print_json({"model": model, "kv_type": ask.kv_type, "speeds": rows, "resident_bytes": resident or None})
    elif resident:
        click.echo(f"resident       {format_bytes(resident)}")


def _line(step: Expected | Shown) -> str:
    from quietmind.plan.table import shown
    from quietmind.workspace.bench import Expected

    if isinstance(step, Expected):
        if step.speed is None:
            return (
                f"predicted  at {step.context:>7,}  nothing: how fast this machine reads its memory is not known; "
                "run `quietmind machine --measure`"
            )
        speeds = f"prefill {shown(step.speed.prefill):<18} decode {shown(step.speed.decode):<18} tokens/s"
        waiting = f"  waits for {step.speed.limit}" if step.speed.limit else ""
        return "\n".join(
            [
                f"predicted  at {step.context:>7,}  {speeds}{waiting}",
                *(f"           {note}" for note in step.speed.basis),
            ]
        )
    return (
        f"measured   at {step.context:>7,}  prefill {_told(step.prefill):<18} decode {_told(step.decode):<18} tokens/s"
    )


def _told(value: float | None) -> str:
    return "too short to tell" if value is None else f"{value:.1f}"


def _row(expected: Expected, shown: Shown) -> dict[str, Any]:
    from quietmind.plan.table import interval_to_json

    speed = expected.speed
    return {
        "context": shown.context,
        "depth": shown.depth,
        "predicted": None
        if speed is None
        else {
            "prefill": interval_to_json(speed.prefill),
            "decode": interval_to_json(speed.decode),
            "limit": speed.limit,
            "basis": list(speed.basis),
        },
        "measured": {"prefill": shown.prefill, "decode": shown.decode},
    }
