"""``quietmind read``: read the notebooks that are due, so that questions need not wait for it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quietmind.base.paths import shown_path
from quietmind.base.progress import terminal_progress
from quietmind.base.units import format_bytes
from quietmind.cli.amounts import BYTES, CLOCK, LENGTH, shown_time
from quietmind.cli.levels import level_json, level_words
from quietmind.cli.options import State, debug_option, json_option, model_options, pass_state, workspace_option
from quietmind.cli.output import counted, flat, print_json, tell_place, visible, warn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quietmind.workspace.due import Standing
    from quietmind.workspace.launch import Start
    from quietmind.workspace.overnight import Done, Reader
    from quietmind.workspace.reading import ReadReport
    from quietmind.workspace.workspace import Workspace

_LISTED = 3  # passages that found no room that are printed
_NAMED = 20  # notebooks that are left whose names are printed
_SAMPLED = 50  # passages that the tokenizer is asked of before a reading


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every command that reads notebooks takes."""
    for option in (
        click.option(
            "--budget", type=BYTES, help="Most that all snapshots may take, such as 20GiB (default: settings)."
        ),
        click.option(
            "--level",
            type=click.Choice(["exact", "near", "small"]),
            help="How much of what is read may be lost in packing: nothing, what no answer shows, or little "
            "(default: settings, near).",
        ),
        click.option("--until", type=CLOCK, help="Stop at this time of day, such as 07:00."),
        click.option("--for", "lasting", type=LENGTH, help="Stop after so long: 2h, 90m."),
        model_options,
        click.option("--model", help="A model's name, file or hf:REPO/FILE (default: tiny)."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@reading_options
@json_option
@workspace_option
@debug_option
@pass_state
def read(state: State, /, names: tuple[str, ...], as_json: bool, workspace: Path, **given: Any) -> None:
    """Read the notebooks that are due: all, or those that are named.

    What is read is stored, and serves every question until the notes change. Stopped or killed at any moment, the next
    reading goes on where this one was.
    """
    run(state, names, workspace, as_json=as_json, **given)


def run(
    state: State,
    names: Sequence[str],
    workspace: Path,
    *,
    as_json: bool,
    model: str | None,
    context: int | None,
    kv: str,
    threads: int | None,
    lasting: float | None,
    until: float | None,
    budget: int | None,
    level: str | None,
) -> None:
    """Read what is due of ``names``, or of all. Times are in seconds from now, ``budget`` in bytes."""
    from quietmind.plan.plan import Ask
    from quietmind.workspace.identity import require_going_on
    from quietmind.workspace.launch import prepare
    from quietmind.workspace.lending import lent_or_started
    from quietmind.workspace.overnight import Reader
    from quietmind.workspace.store import budget_of, open_store
    from quietmind.workspace.workspace import Workspace

    limits = [seconds for seconds in (lasting, until) if seconds is not None]
    end = time.monotonic() + min(limits) if limits else None
    with Workspace(workspace) as archive:
        for name in names:
            archive.notebooks.named(name)
        if not archive.notebooks.all():
            _say("there are no notebooks yet; make some with `quietmind notebook auto`", as_json=as_json)
            return
        limit = budget_of(archive.folder, state.settings.snapshot_gib) if budget is None else budget
        store = open_store(archive.folder, limit)
        with store.scratch():  # what cannot be written is said before a model is loaded
            pass
        start = prepare(model or state.settings.model, Ask(context, kv, threads=threads), archive.folder, warn)
        require_going_on(start.card)
        with lent_or_started(start, archive, warn, tell_place) as (engine, fingerprint):
            reader = Reader.of(start, engine, fingerprint, store, limit, level or state.settings.snapshot_level)
            due = reader.due(archive.notebooks, names)
            if not due:
                _say("nothing is due: all is read", as_json=as_json)
                return
            click.echo(_forecast(start, reader, archive, due), err=True)
            if reader.packing.remark:
                click.echo(visible(reader.packing.remark), err=True)
            _read_all(reader, archive, due, end, evict=bool(names), as_json=as_json)


def _read_all(
    reader: Reader, archive: Workspace, due: Sequence[Standing], end: float | None, *, evict: bool, as_json: bool
) -> None:
    """Read what is due and print what was done, also where it ends with an error or Ctrl-C."""
    from quietmind.workspace.overnight import read_all

    done: list[Done] = []
    began = time.monotonic()
    try:
        with terminal_progress() as progress:
            for each in read_all(reader, archive.notebooks, due, progress, end, evict=evict):
                done.append(each)
    finally:
        left = [each.notebook.name for each in due if each.notebook.name not in {one.name for one in done}]
        if as_json:
            print_json({"read": [_as_json(each) for each in done], "left": left})
        else:
            _print(done, left, time.monotonic() - began)


def _say(line: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"read": [], "left": []})
    click.echo(line, err=as_json)


def _forecast(start: Start, reader: Reader, archive: Workspace, due: Sequence[Standing]) -> str:
    """Return what is due and how long the plan says that reading it takes, from nothing."""
    from quietmind.workspace.auto import calibrated, size_of
    from quietmind.workspace.cost import cost_of

    passages = [archive.notebooks.passages(each.notebook) for each in due]
    everything = [passage for of_notebook in passages for passage in of_notebook]
    rates = calibrated(reader.engine, everything[:: max(1, len(everything) // _SAMPLED)])
    room = start.plan.context
    cost = cost_of(start, [min(room, rates.tokens([size_of(each) for each in own])) for own in passages])
    if cost.seconds is None:
        taking = "how long it takes is not known before the first (`quietmind machine --measure` finds out)"
    else:
        low, mid, high = map(shown_time, (cost.seconds.low, cost.seconds.mid, cost.seconds.high))
        taking = f"at most {mid} ({low} to {high})"
    if reader.packing.codecs:  # how long the model's answers are is not known before
        taking += "; packing them and asking what was lost comes on top"
    return f"{counted(len(due), 'notebook')} due, about {cost.tokens:,} tokens: {taking}"


def _print(done: Sequence[Done], left: Sequence[str], seconds: float) -> None:
    from quietmind.plan.table import align

    rows: list[tuple[str, ...]] = [
        ("notebook", "tokens", "restored", "prefilled", "time", "of it check", "on disk", "kept")
    ]
    remarks: list[str] = []
    for each in done:
        remarks += [f"{each.name}: {remark}" for remark in _remarks(each)]
        if each.report is None:
            continue
        rows.append(_row(each.name, each.report))
    if len(rows) > 1:
        click.echo("\n".join(align(rows, {0, 7})))
    for remark in remarks:
        click.echo(visible(remark))
    if left:
        more = f" and {len(left) - _NAMED:,} more" if len(left) > _NAMED else ""
        click.echo(f"not read, still due: {', '.join(left[:_NAMED])}{more}")
    prefilled = sum(each.report.prefilled for each in done if each.report)
    click.echo(f"{counted(prefilled, 'token')} read in {shown_time(seconds)}")


def _row(name: str, report: ReadReport) -> tuple[str, ...]:
    counts = (f"{n:,}" for n in (report.tokens, report.restored, report.prefilled))
    stored, kept = ("-", "-")
    if report.snapshot:
        stored, kept = format_bytes(report.snapshot.bytes), level_words(report.snapshot)
    check = shown_time(report.check_seconds) if report.check_seconds else "-"
    return name, *counts, shown_time(report.spent), check, stored, kept


def _remarks(done: Done) -> list[str]:
    if done.report is None:
        return [f"not read: {done.problem}"]
    remarks = [f"not used and read again: {flat(reason)}" for reason in done.report.refused]
    remarks += [f"not kept smaller: {flat(reason)}" for reason in done.report.finer]
    if not done.report.finished:
        held = done.report.restored + done.report.prefilled
        remarks.append(f"out of time at {held:,} of {done.report.tokens:,} tokens; the next reading goes on there")
    if done.left_out:
        names = ", ".join(f"{shown_path(passage.path)}:{passage.first_line}" for passage in done.left_out[:_LISTED]) + (
            ", ..." if len(done.left_out) > _LISTED else ""
        )
        remarks.append(f"{counted(len(done.left_out), 'passage')} found no room in the context: {names}")
    return remarks


def _as_json(done: Done) -> dict[str, Any]:
    report = done.report
    return {
        "name": done.name,
        "why": done.why,
        "problem": done.problem or None,
        "tokens": report.tokens if report else None,
        "restored": report.restored if report else 0,
        "prefilled": report.prefilled if report else 0,
        "finished": report.finished if report else False,
        "seconds": round(report.spent, 3) if report else None,
        "seconds_from_nothing": round(report.seconds, 3) if report else None,
        "bytes": report.snapshot.bytes if report and report.snapshot else None,
        **level_json(report.snapshot if report else None),
        "check_seconds": round(report.check_seconds, 3) if report else None,
        "finer": list(report.finer) if report else [],
        "refused": list(report.refused) if report else [],
        "left_out": [
            {"path": str(passage.path), "first_line": passage.first_line, "last_line": passage.last_line}
            for passage in done.left_out
        ],
    }
