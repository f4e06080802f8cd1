"""``quietmind plan``: the ledger of a model on this machine."""

from __future__ import annotations

import click

from quietmind.cli.options import debug_option, json_option, model_options
from quietmind.cli.output import print_json


@click.command()
@click.argument("model")
@model_options
@json_option
@debug_option
def plan(model: str, context: int | None, kv: str, threads: int | None, as_json: bool) -> None:
    """Say what MODEL takes in memory on this machine, before loading it.

    MODEL is a short name (tiny), a GGUF file, or hf:REPO/FILE that has been fetched.
    """
    from quietmind.plan.plan import Ask
    from quietmind.plan.render import render, to_json
    from quietmind.workspace.launch import plan_model

    planned, _ = plan_model(model, Ask(context=context, kv_type=kv, threads=threads))
    if as_json:
        print_json(to_json(planned))
    else:
        click.echo(render(planned))
