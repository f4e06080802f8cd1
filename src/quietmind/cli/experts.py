"""``quietmind experts``: what a mixture of experts holds, and what a token reads of it."""

from __future__ import annotations

import click

from quietmind.cli.options import debug_option, json_option
from quietmind.cli.output import print_json


@click.command()
@click.argument("model")
@click.option("--quant", help="Quantization to count in, for a model of the catalogue: Q4_K_M, Q8_0, F16, ...")
@json_option
@debug_option
def experts(model: str, quant: str | None, as_json: bool) -> None:
    """Say what MODEL holds and what a token reads of it, at 1 to 16 experts.

    MODEL is what `quietmind plan` takes. The number of experts at work changes what is read, never what is held.
    """
    from quietmind.model.open import open_card
    from quietmind.plan.moe import experts_of, experts_to_json, render_experts

    facts = experts_of(open_card(model, quant))
    if as_json:
        print_json(experts_to_json(facts))
    else:
        click.echo(render_experts(facts))
