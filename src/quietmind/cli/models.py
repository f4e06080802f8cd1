"""``quietmind models``: the public models of the catalogue, and the files that are here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from quietmind.base.paths import shown_path
from quietmind.base.units import format_bytes
from quietmind.cli.options import debug_option, json_option
from quietmind.cli.output import print_json

if TYPE_CHECKING:
    from quietmind.model.catalogue import Entry
    from quietmind.model.locate import Installed


@click.command()
@json_option
@debug_option
def models(as_json: bool) -> None:
    """List the models that can be planned by name, and the files of models that are here.

    Numbers follow from each model's own configuration, except where the line says otherwise. KV is what one token of
    context takes in f16 (a sliding window and a recurrent state take no more however long the context is). The native
    context is what the configuration says, and engines go by; some makers document less.
    """
    from quietmind.model.catalogue import entries
    from quietmind.model.locate import installed

    public, here = [_described(entry) for entry in entries()], installed()
    if as_json:
        print_json({"catalogue": public, "here": [_found(model) for model in here]})
        return
    for line in _table(public):
        click.echo(line)
    click.echo()
    if not here:
        click.echo("no model files are here; fetch one with `quietmind pull tiny`")
    for model in here:
        click.echo(f"{format_bytes(model.bytes):>10}  {model.name}  {model.source}: {shown_path(model.path)}")


def _described(entry: Entry) -> dict[str, Any]:
    from quietmind.model.derive import derive_card
    from quietmind.plan.kv import bytes_per_token, kv_type
    from quietmind.plan.moe import experts_of

    card = derive_card(entry.shape, entry.quantizations[0])
    used = [work.parameters for work in experts_of(card).at_work if work.experts_used == card.experts_used]
    return {
        "name": entry.name,
        "aliases": list(entry.aliases),
        "arch": card.arch,
        "parameters": card.parameters,
        "active_parameters": used[0] if used else card.parameters,
        "layers": card.layers,
        "layer_kinds": {kind.value: card.layer_kinds.count(kind) for kind in dict.fromkeys(card.layer_kinds)},
        "kv_bytes_per_token": bytes_per_token(card, kv_type("f16")),
        "native_context": card.native_context,
        "documented_context": entry.documented_context or card.native_context,
        "quantizations": list(entry.quantizations),
        "licence": entry.licence,
        "source": entry.source,
        "basis": entry.basis or "config.json",
        "note": entry.note,
    }


def _found(model: Installed) -> dict[str, Any]:
    return {"name": model.name, "path": str(model.path), "source": model.source, "bytes": model.bytes}


def _table(public: list[dict[str, Any]]) -> list[str]:
    from quietmind.plan.table import align

    rows = [("model", "parameters", "active", "layers", "KV per token", "native context", "licence", "")]
    rows += [
        (
            model["name"],
            f"{model['parameters'] / 1e9:,.1f} B",
            f"{model['active_parameters'] / 1e9:,.1f} B",
            str(model["layers"]),
            format_bytes(model["kv_bytes_per_token"]),
            f"{model['native_context']:,}",
            model["licence"],
            _remark(model),
        )
        for model in public
    ]
    return align(rows, left={0, 6, 7})


def _remark(model: dict[str, Any]) -> str:
    """Return where the makers promise less context than the file says, and numbers that are not of the file."""
    remarks = []
    if model["documented_context"] < model["native_context"]:
        remarks.append(f"{model['documented_context']:,} documented")
    if model["basis"] != "config.json":
        remarks.append(f"from {model['basis']}")
    return ", ".join(remarks)
