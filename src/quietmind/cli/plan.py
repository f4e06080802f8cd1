"""``quietmind plan``: what a model takes and how fast it is, the best choice for a goal, what if, and pictures."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from quietmind.base.errors import DoesNotFit, SnapshotError, UsageError
from quietmind.base.files import write_whole
from quietmind.base.paths import shown_path
from quietmind.cli.options import TOKENS, AnyPath, State, debug_option, json_option, model_options, workspace_option
from quietmind.cli.output import print_json

if TYPE_CHECKING:
    from quietmind.machine.machine import Machine
    from quietmind.model.card import ModelCard
    from quietmind.plan import Ask, Plan
    from quietmind.plan.search import Frontier, Planner


@dataclass(frozen=True)
class _Demands:
    """What to choose by. ``kv_types`` empty: any."""

    goal: str
    min_decode: float | None
    min_context: int | None
    kv_types: tuple[str, ...]


@click.command()
@click.argument("models", metavar="MODEL [MODEL]", nargs=-1, required=True)
@model_options
@click.option("--micro-batch", type=click.IntRange(min=1), help="Tokens computed together (default: chosen).")
@click.option("--sequences", "--batch", type=click.IntRange(min=1), help="Requests answered at once (default: 1).")
@click.option("--experts", type=click.IntRange(min=1), help="Experts at work in each layer (default: as trained).")
@click.option("--quant", help="Quantization, for a model of the catalogue: Q4_K_M, Q8_0, F16, FP8, GPTQ-INT4, ...")
@click.option("--machine", help="A name of `quietmind machine --list`, or a TOML file (default: this one).")
@click.option("--engine", default="llama.cpp", help="llama.cpp, llama-server, vllm, sglang or transformers.")
@click.option("--gpus", type=click.IntRange(min=1), help="With vllm and sglang: GPUs of a machine to use at most.")
@click.option("--nodes", type=click.IntRange(min=1), default=1, help="With vllm and sglang: machines alike.")
@click.option("--goal", help="Choose quantization, KV type and context by quality, context or speed.")
@click.option("--min-decode", type=float, help="With a goal: tokens a second that must be met with the context full.")
@click.option("--min-context", type=TOKENS, help="With a goal: context that must be held, in tokens.")
@click.option("--compare", is_flag=True, help="Change one thing at a time: context, experts, KV, weights, hardware.")
@click.option("--plot", type=AnyPath(dir_okay=False), help="Draw memory and speed into an SVG file.")
@click.option("--flags", "flags_only", is_flag=True, help="Print only the engine's command line.")
@workspace_option
@json_option
@debug_option
@click.pass_context
def plan(
    ctx: click.Context,
    models: tuple[str, ...],
    context: int | None,
    kv: str,
    threads: int | None,
    micro_batch: int | None,
    sequences: int | None,
    experts: int | None,
    quant: str | None,
    machine: str | None,
    engine: str,
    gpus: int | None,
    nodes: int,
    goal: str | None,
    min_decode: float | None,
    min_context: int | None,
    compare: bool,
    plot: Path | None,
    flags_only: bool,
    workspace: Path,
    as_json: bool,
) -> None:
    """Say what MODEL takes in memory, where its parts go and how fast it runs, before loading it.

    MODEL is a name of the catalogue (`quietmind models`), a GGUF file, or hf:REPO/FILE that has been fetched. Two
    models stand side by side on one machine.
    """
    from quietmind.plan import Ask
    from quietmind.plan.engines import default_kv_type, engine_kind
    from quietmind.workspace.lineup import machine_named, planner_for

    if engine_kind(engine).placing != "offload" and (
        len(models) > 1 or compare or plot or goal is not None or min_decode is not None or min_context is not None
    ):
        raise UsageError(
            f"--engine {engine} plans one model as it is asked; --goal, --min-decode, --min-context, --compare, --plot "
            "and a second model go with llama.cpp"
        )
    if ctx.get_parameter_source("kv") is not ParameterSource.COMMANDLINE:
        kv = default_kv_type(engine, kv)
    ask = Ask(context=context, kv_type=kv, threads=threads, experts_used=experts, sequences=sequences or 1)
    ask = replace(ask, engine=engine, gpus=gpus, nodes=nodes)
    if micro_batch is not None:
        ask = replace(ask, micro_batch=micro_batch, batch=max(ask.batch, micro_batch))
    if plot is not None and plot.suffix.casefold() != ".svg":
        raise UsageError(f"{shown_path(plot)}: the picture is an SVG; give a name that ends in .svg")
    demands = _demands(ctx, goal, min_decode, min_context)
    if len(models) == 1:
        on = machine_named(machine)
        budget = _snapshot_budget(ctx, workspace) if machine is None else None
        subject = _Subject(models[0], quant, on, ask, planner_for(on, workspace), budget)
        _one(ctx, subject, demands, "compare" if compare else "flags" if flags_only else "plan", plot, as_json)
        return
    if len(models) > 2:
        raise UsageError(f"{len(models):,} models were named; one is planned, or two models side by side")
    if demands or compare or plot or flags_only:
        raise UsageError(
            "two models stand side by side; --goal, --min-decode, --min-context, --compare, --plot and --flags "
            "take one model"
        )
    _side_by_side(machine_named(machine), models, quant, ask, as_json)


def _demands(
    ctx: click.Context, goal: str | None, min_decode: float | None, min_context: int | None
) -> _Demands | None:
    """Return what to choose by, None where nothing was left to choose. What was said of KV and context holds."""

    def said(name: str) -> bool:
        return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE

    context: int | None = ctx.params["context"]
    if said("context") and min_context is not None and context is not None and context != min_context:
        raise UsageError(f"--context {context:,} and --min-context {min_context:,} contradict each other; give one")
    if goal is None and min_decode is None and min_context is None:
        return None
    kv_types = (str(ctx.params["kv"]),) if said("kv") else ()
    return _Demands("quality" if goal is None else goal, min_decode, min_context or context, kv_types)


@dataclass(frozen=True)
class _Subject:
    """What is planned. ``quant`` None: as the model is, or the catalogue's usual one.

    ``snapshot_budget`` is what snapshots may take of the machine's disk in bytes; None where that is not known.
    """

    model: str
    quant: str | None
    machine: Machine
    ask: Ask
    planner: Planner
    snapshot_budget: int | None


def _snapshot_budget(ctx: click.Context, workspace: Path) -> int | None:
    """Return the bytes that snapshots may take here; None where the disk cannot be looked at: plans do without."""
    from quietmind.workspace.store import budget_of

    try:
        return budget_of(workspace, ctx.ensure_object(State).settings.snapshot_gib)
    except SnapshotError:
        return None


def _one(
    ctx: click.Context, subject: _Subject, demands: _Demands | None, show: str, plot: Path | None, as_json: bool
) -> None:
    from quietmind.model.open import open_card

    frontier = None
    if demands is None:
        card = open_card(subject.model, subject.quant)
    else:
        frontier, card, ask = _best(ctx, subject, demands, as_json)
        subject = replace(subject, ask=ask)
    if show == "compare":
        _compare(subject, card, as_json)
        return
    planned = subject.planner(subject.machine, card, subject.ask)
    if plot is not None:
        _draw(plot, subject, card, planned)
    if show == "flags":
        _print_flags(planned, as_json)
    else:
        _print_plan(planned, frontier, subject.snapshot_budget, as_json)


def _best(ctx: click.Context, subject: _Subject, demands: _Demands, as_json: bool) -> tuple[Frontier, ModelCard, Ask]:
    """Return the frontier, and of its best choice the card and what to ask. Ends the command if nothing will do."""
    from quietmind.model.open import open_card
    from quietmind.plan.search import frontier_to_json, goal_named, render_frontier, search
    from quietmind.workspace.lineup import quantized

    cards = quantized(subject.model) if subject.quant is None else [open_card(subject.model, subject.quant)]
    frontier = search(
        subject.machine,
        cards,
        goal_named(demands.goal),
        demands.min_decode,
        demands.min_context,
        subject.ask,
        subject.planner,
        demands.kv_types,
    )
    chosen = frontier.chosen
    if chosen is None and as_json:
        print_json(frontier_to_json(frontier))
        ctx.exit(1)
    if chosen is None:
        raise DoesNotFit(
            f"{subject.model}: no quantization, KV type and placement on {subject.machine.name} does; ask for less, or "
            "see `quietmind hardware`",
            ledger=render_frontier(frontier),
        )
    card = next(card for card in cards if chosen.quantization in (card.quantization, card.name))
    return frontier, card, replace(subject.ask, context=chosen.plan.context, kv_type=chosen.plan.kv_type)


def _side_by_side(machine: Machine, models: tuple[str, ...], quant: str | None, ask: Ask, as_json: bool) -> None:
    from quietmind.model.open import open_card
    from quietmind.plan.compare import render_side_by_side, side_by_side
    from quietmind.plan.render import to_json

    both = side_by_side(machine, [open_card(model, quant) for model in models], ask)
    if as_json:
        plans = [to_json(each) for each in both.alone]
        print_json({"machine": machine.name, "plans": plans, "together": to_json(both.together)})
    else:
        click.echo(render_side_by_side(both))


def _compare(subject: _Subject, card: ModelCard, as_json: bool) -> None:
    from quietmind.plan.compare import compare, comparison_to_json, render_comparison
    from quietmind.workspace.lineup import COMPARED_MACHINES, COMPARED_QUANTIZATIONS, machines_named, quantized

    others = quantized(subject.model, COMPARED_QUANTIZATIONS)
    machines = machines_named(COMPARED_MACHINES)
    comparison = compare(subject.machine, card, subject.ask, others, machines, subject.planner)
    if as_json:
        print_json(comparison_to_json(comparison))
    else:
        click.echo(render_comparison(comparison))


def _draw(file: Path, subject: _Subject, card: ModelCard, planned: Plan) -> None:
    from quietmind.plan.svg import decode_curves, draw

    document = draw(planned, decode_curves(subject.machine, card, subject.ask, planned, subject.planner))
    try:
        write_whole(file, document.encode())
    except OSError as error:
        raise UsageError(f"{shown_path(file)}: cannot be written: {error.strerror}; choose another file") from error


def _print_flags(planned: Plan, as_json: bool) -> None:
    if as_json:
        print_json({"engine": planned.engine, "engine_key": planned.engine_key, "flags": list(planned.flags)})
    else:
        click.echo(shlex.join(planned.flags))


def _print_plan(planned: Plan, frontier: Frontier | None, snapshot_budget: int | None, as_json: bool) -> None:
    from quietmind.plan.render import render, to_json
    from quietmind.plan.search import frontier_to_json, render_frontier

    if as_json:
        document = to_json(planned, snapshot_budget)
        print_json(document if frontier is None else document | {"search": frontier_to_json(frontier)})
        return
    if frontier is not None:
        click.echo(f"{render_frontier(frontier)}\n")
    click.echo(render(planned, snapshot_budget=snapshot_budget))
