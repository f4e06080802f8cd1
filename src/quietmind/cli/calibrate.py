"""``quietmind calibrate``: learn from the person's own notes how a model's snapshots are best made small."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quietmind.base.errors import UsageError
from quietmind.base.progress import terminal_progress
from quietmind.base.units import format_bytes
from quietmind.cli.amounts import shown_time
from quietmind.cli.options import TOKENS, State, debug_option, json_option, model_options, pass_state, workspace_option
from quietmind.cli.output import counted, print_json, tell_place, warn

if TYPE_CHECKING:
    from quietmind.workspace.calibrate import Calibration, Tried


@click.command()
@click.option("--tokens", type=TOKENS, help="How much of the notes to learn from (default: 32k).")
@click.option("--model", help="A model's name, file or hf:REPO/FILE (default: tiny).")
@model_options
@json_option
@workspace_option
@debug_option
@pass_state
def calibrate(
    state: State,
    tokens: int | None,
    model: str | None,
    context: int | None,
    kv: str,
    threads: int | None,
    as_json: bool,
    workspace: Path,
) -> None:
    """Learn from some of the notes how the model's snapshots are made many times smaller.

    Once for a model, and again when the notes have become others. Nothing else is kept of what is read, and a
    calibration that is stopped leaves nothing behind.
    """
    from quietmind.plan.plan import Ask
    from quietmind.workspace.calibrate import LEAST_TOKENS, Effort, calibrator, rotation_for
    from quietmind.workspace.launch import prepare
    from quietmind.workspace.lending import lent_or_started
    from quietmind.workspace.store import open_store
    from quietmind.workspace.workspace import Workspace

    if tokens is not None and tokens < LEAST_TOKENS:
        raise UsageError(f"{tokens:,} tokens are too few to learn from; give at least {LEAST_TOKENS:,}")
    effort = Effort() if tokens is None else Effort(tokens=tokens)
    with Workspace(workspace) as archive:
        store = open_store(archive.folder)
        with store.scratch():  # what cannot be written is said before a model is loaded
            pass
        start = prepare(model or state.settings.model, Ask(context, kv, threads=threads), archive.folder, warn)
        rotation_for(start)  # nor is a model loaded that has no use of it
        model_of = lent_or_started(start, archive, warn, tell_place)
        with model_of as (engine, fingerprint), terminal_progress() as progress:
            learning = calibrator(start, engine, fingerprint, store, effort, progress=progress, forecast=_forecast)
            found = learning.run(archive)
        if as_json:
            print_json({"model": start.card.name, **_as_json(found)})
        else:
            _print(start.card.name, found)


def _forecast(seconds: float) -> None:
    click.echo(f"about {shown_time(seconds)} to come", err=True)


def _print(name: str, found: Calibration) -> None:
    from quietmind.plan.table import align

    rows: list[tuple[str, ...]] = [("level", "times smaller", "KL of facts", "worst", "in own words", "same facts")]
    rows += [_row(each) for each in found.levels]
    click.echo("\n".join(align(rows, {0})))
    click.echo(f"KL below {found.floor:.5f} cannot be told from the engine's own rounding")
    size, took = format_bytes(found.basis.size), shown_time(found.seconds)
    click.echo(f"basis of {name}: {size}, from {counted(found.tokens, 'token')} of notes in {took}")
    if found.by_noise:
        click.echo(f"noise told what errors cost, not gradients, which need less time: {found.by_noise}")
    if found.removed:
        click.echo(f"removed earlier bases that nothing is stored with: {found.removed}")
    click.echo("`quietmind read` stores notebooks with it from now on")


def _row(tried: Tried) -> tuple[str, ...]:
    damage = tried.damage
    same = f"{damage.same} of {damage.probes}"
    prose = "-" if damage.prose is None else f"{damage.prose:.4f}"
    return tried.level, f"{tried.ratio:.1f}", f"{damage.mean:.4f}", f"{damage.worst:.4f}", prose, same


def _as_json(found: Calibration) -> dict[str, Any]:
    return {
        "basis": str(found.path),
        "bytes": found.basis.size,
        "tokens": found.tokens,
        "seconds": round(found.seconds, 1),
        "floor": found.floor,
        "levels": [
            {"level": each.level, "step": each.step, "ratio": round(each.ratio, 2), **asdict(each.damage)}
            for each in found.levels
        ],
        "removed": found.removed,
        "by_noise": found.by_noise,
    }
