"""``quietmind hardware``: which machines, and which single upgrade of this one, would do."""

from __future__ import annotations

from pathlib import Path

import click

from quietmind.cli.options import TOKENS, debug_option, json_option, workspace_option
from quietmind.cli.output import print_json


@click.command()
@click.argument("model")
@click.option("--context", type=TOKENS, required=True, help="Context that must fit, in tokens: 32k, 128k.")
@click.option("--min-decode", type=float, help="Tokens a second that it must write with the context full.")
@click.option("--kv", default="f16", show_default=True, help="Type of the KV cache: f16, q8_0, q4_0, ...")
@click.option("--quant", help="Quantization, for a model of the catalogue: Q4_K_M, Q8_0, F16, ...")
@click.option("--experts", type=click.IntRange(min=1), help="Experts at work in each layer (default: as trained).")
@click.option("--machine", help="To upgrade: a name of `quietmind machine --list` or a TOML file (default: this one).")
@workspace_option
@json_option
@debug_option
def hardware(
    model: str,
    context: int,
    min_decode: float | None,
    kv: str,
    quant: str | None,
    experts: int | None,
    machine: str | None,
    workspace: Path,
    as_json: bool,
) -> None:
    """Say which machines would run MODEL so, and which single upgrade of this one."""
    from quietmind.model.open import open_card
    from quietmind.plan import Ask
    from quietmind.plan.hardware import hardware as answer_for
    from quietmind.plan.hardware import hardware_to_json, render_hardware
    from quietmind.workspace.lineup import gpu_cards, machine_named, machines_named, planner_for

    here = machine_named(machine)
    answer = answer_for(
        open_card(model, quant),
        Ask(context=context, kv_type=kv, experts_used=experts),
        min_decode,
        here,
        machines_named(),
        gpu_cards(),
        planner_for(here, workspace),
    )
    if as_json:
        print_json(hardware_to_json(answer))
    else:
        click.echo(render_hardware(answer))
