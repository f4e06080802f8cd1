"""``quietmind notebook auto``: the archive divided into notebooks, and what reading them will cost."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quietmind.base.errors import EngineError, NothingIndexed
from quietmind.base.paths import shown_path
from quietmind.base.units import GIB, format_bytes
from quietmind.cli.amounts import shown_time
from quietmind.cli.options import AnyPath, State, debug_option, json_option, model_options, pass_state, workspace_option
from quietmind.cli.output import print_json, visible

if TYPE_CHECKING:
    from quietmind.workspace.auto import Division, Rates
    from quietmind.workspace.cost import Cost
    from quietmind.workspace.launch import Start
    from quietmind.workspace.workspace import Workspace

# A model of so many bytes is loaded in a moment, only to ask its tokenizer.
_QUICKLY_LOADED = 4 * GIB
_CALIBRATING_CONTEXT = 512
_LISTED = 5
_ROWS = 40  # notebooks that are printed


@click.command()
@click.option("--from", "below", type=AnyPath(), help="Divide only the notes below this folder.")
@click.option("--dry-run", is_flag=True, help="Only say what would be made.")
@click.option("--model", help="A model's name, file or hf:REPO/FILE (default: tiny).")
@model_options
@json_option
@workspace_option
@debug_option
@pass_state
def auto(
    state: State,
    below: Path | None,
    dry_run: bool,
    model: str | None,
    context: int | None,
    kv: str,
    threads: int | None,
    as_json: bool,
    workspace: Path,
) -> None:
    """Divide the archive into the fewest notebooks that fit the context, and say what reading them costs.

    Related notes stay together: those of a folder, those that link to each other, those that share rare words. Done
    again, notes stay where they are, as far as there is room.
    """
    from quietmind.plan.plan import Ask
    from quietmind.workspace.auto import divided
    from quietmind.workspace.cost import cost_of
    from quietmind.workspace.identity import can_go_on
    from quietmind.workspace.launch import prepare
    from quietmind.workspace.store import budget_of, free_bytes
    from quietmind.workspace.workspace import Workspace

    with Workspace(workspace) as archive:
        scope = None if below is None else Path(os.path.realpath(below))
        outlines = archive.outlines(scope)
        if not outlines:
            where = shown_path(below if below is not None else archive.folder)
            raise NothingIndexed(f"{where}: holds no indexed notes; run `quietmind index FOLDER` first")
        start = prepare(model or state.settings.model, Ask(context, kv, threads=threads), archive.folder, _warn)
        rates = _rates(start, archive, scope)
        own = [each for each in archive.notebooks.all() if _is_of(each.source.kind, each.source.value, scope)]
        existing = {each.name: each.members for each in own}
        taken = {each.name for each in archive.notebooks.all()} - existing.keys()
        division = divided(outlines, rates, start.plan.context, existing, taken)
        cost = cost_of(start, [part.tokens for part in division.parts])
        if not dry_run:
            archive.notebooks.divide(str(scope or ""), {part.name: part.members for part in division.parts})
            _remove_stored(archive, existing.keys() - {part.name for part in division.parts})
        budget, free = budget_of(archive.folder, state.settings.snapshot_gib), free_bytes(archive.folder)
    if as_json:
        print_json(_as_json(division, rates, cost, start.plan.context, budget, free))
    else:
        _print(division, rates, cost, budget, free)
    if not can_go_on(start.card):
        _warn(
            f"{start.card.name} has layers with a sliding window, so that `quietmind read` does not read ahead with it"
        )


def _warn(warning: str) -> None:
    click.echo(f"warning: {warning}", err=True)


def _is_of(kind: str, value: str, scope: Path | None) -> bool:
    return kind == "auto" and value == str(scope or "")


def _rates(start: Start, archive: Workspace, scope: Path | None) -> Rates:
    """Return tokens for each character: by the model's own tokenizer where it is loaded in a moment."""
    from quietmind.plan.plan import plan
    from quietmind.workspace.auto import ASSUMED, calibrated

    if start.card.weight_bytes > _QUICKLY_LOADED:
        return ASSUMED
    ask = replace(start.ask, context=_CALIBRATING_CONTEXT)
    small = replace(start, ask=ask, plan=plan(start.machine, start.card, ask))
    try:
        with small.engine(archive.logs) as engine:
            return calibrated(engine, archive.sample(scope))
    except EngineError:  # it will say so again, and to more purpose, when it is to read
        return ASSUMED


def _remove_stored(archive: Workspace, gone: set[str]) -> None:
    from quietmind.workspace.store import open_store

    store = open_store(archive.folder)
    for snapshot in store.snapshots():
        if snapshot.header.label in gone:
            store.remove(snapshot)


def _print(division: Division, rates: Rates, cost: Cost, budget: int, free: int) -> None:
    from quietmind.plan.table import align

    rows = [("notebook", "notes", "tokens")]
    rows += [(part.name, f"{part.notes:,}", f"{part.tokens:,}") for part in division.parts[:_ROWS]]
    click.echo("\n".join(visible(line) for line in align(rows, {0})))
    if len(division.parts) > _ROWS:
        click.echo(f"and {len(division.parts) - _ROWS:,} more (--json lists all)")
    for path, stretches in division.split[:_LISTED]:
        click.echo(f"{shown_path(path)}: larger than a notebook, split into {stretches:,} stretches")
    for path in division.too_large[:_LISTED]:
        click.echo(f"{shown_path(path)}: holds a passage that alone is larger than a notebook, and is left out")
    click.echo(f"tokens are estimated, {rates.basis}; a notebook holds up to {division.budget:,}")
    time = (
        "a time that is not known (`quietmind machine --measure` finds out)"
        if cost.seconds is None
        else (f"{shown_time(cost.seconds.mid)} ({shown_time(cost.seconds.low)} to {shown_time(cost.seconds.high)})")
    )
    click.echo(
        f"reading all: {cost.tokens:,} tokens, {time}, {format_bytes(cost.bytes)} on disk; "
        f"{format_bytes(free)} are free, snapshots may take {format_bytes(budget)}"
    )
    if cost.bytes > budget:
        kept = int(len(division.parts) * budget / cost.bytes)
        click.echo(f"warning: that is room for {kept:,} of them; raise snapshot_gib in the settings", err=True)


def _as_json(division: Division, rates: Rates, cost: Cost, context: int, budget: int, free: int) -> dict[str, Any]:
    from quietmind.plan.table import interval_to_json

    return {
        "notebooks": [{"name": part.name, "notes": part.notes, "tokens": part.tokens} for part in division.parts],
        "context": context,
        "tokens_each": division.budget,
        "tokens_per_character": {"cyrillic": rates.cyrillic, "other": rates.other, "basis": rates.basis},
        "split": [{"path": str(path), "stretches": stretches} for path, stretches in division.split],
        "too_large": [str(path) for path in division.too_large],
        "cost": {
            "tokens": cost.tokens,
            "seconds": interval_to_json(cost.seconds),
            "bytes": cost.bytes,
            "free_bytes": free,
            "budget_bytes": budget,
        },
    }
