"""``quietmind notebook``: make, list, show, pin and drop notebooks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quietmind.base.errors import ModelError, UsageError
from quietmind.base.paths import shown_path
from quietmind.base.units import format_bytes
from quietmind.cli.amounts import shown_time
from quietmind.cli.ask import ask
from quietmind.cli.levels import level_json, level_words, measured_words
from quietmind.cli.notebook_auto import auto
from quietmind.cli.options import State, debug_option, json_option, pass_state, workspace_option
from quietmind.cli.output import counted, print_json, visible
from quietmind.cli.read import reading_options, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quietmind.kvstore.store import Snapshot
    from quietmind.notes.document import Passage
    from quietmind.workspace.due import Standing
    from quietmind.workspace.notebook import Member, Notebook, Source
    from quietmind.workspace.workspace import Workspace

_LISTED = 20  # notes of a notebook that are printed

_LIKE_A_PATH = ("/", "./", "../", "~")

_model_option = click.option("--model", help="Say whether what this model has read still serves (default: settings).")


@click.group()
def notebook() -> None:
    """Make and list notebooks: selections of notes that the model reads once and then answers from.

    `quietmind notebook auto` divides the whole archive, `quietmind read` reads what is due.
    """


@notebook.command()
@click.argument("name")
@click.option("--from", "value", help="A folder or file, a #tag, or else a query.")
@click.option("--tag", help="Notes that bear this tag, in their text or front matter.")
@click.option("--query", help="Passages that this query finds.")
@json_option
@workspace_option
@debug_option
def make(name: str, value: str | None, tag: str | None, query: str | None, as_json: bool, workspace: Path) -> None:
    """Make the notebook NAME of indexed notes."""
    from quietmind.workspace.workspace import Workspace

    source = _source(value, tag, query)
    with Workspace(workspace) as archive:
        made = archive.notebooks.make(name, source)
    if as_json:
        print_json(_described(made))
        return
    taken = f"; {value!r} was taken for a {made.source.kind}" if value is not None else ""
    click.echo(f"{made.name}: {_members(made)} from {_source_words(made)}{taken}")


def _source(value: str | None, tag: str | None, query: str | None) -> Source:
    from quietmind.workspace.notebook import Source

    given = [text for text in (value, tag, query) if text is not None]
    if len(given) != 1:
        raise UsageError("say once what the notebook is made of: --from PATH, --tag TAG or --query TEXT")
    if not given[0].strip():
        raise UsageError("an empty text names no notes; give a folder, a #tag or a query")
    if query is not None:
        return Source("query", query)
    if tag is not None or (value is not None and value.startswith("#") and not _there(value)):
        return Source("tag", given[0].removeprefix("#"))
    if _there(given[0]):
        return Source("path", os.path.realpath(given[0]))
    if given[0].startswith(_LIKE_A_PATH):
        raise UsageError(f"there is no {given[0]}; give a folder that is there, or say --query if it is a query")
    return Source("query", given[0])


def _there(value: str) -> bool:
    try:
        return os.path.lexists(value)
    except ValueError:  # a NUL in it
        return False


@notebook.command("list")
@_model_option
@json_option
@workspace_option
@debug_option
@pass_state
def list_(state: State, model: str | None, as_json: bool, workspace: Path) -> None:
    """List the notebooks: what they are made of, what was read of them, what is due and why."""
    from quietmind.workspace.store import budget_of, open_store
    from quietmind.workspace.workspace import Workspace

    with Workspace(workspace) as archive:
        budget = budget_of(archive.folder, state.settings.snapshot_gib)
        store = open_store(archive.folder, budget)
        expected = _expected(model or state.settings.model, named=model is not None)
        snapshots = store.snapshots()
        standings = [_standing(archive, each, snapshots, expected) for each in archive.notebooks.all()]
        refused = store.refused()
    used = sum(snapshot.bytes for snapshot in snapshots)
    if as_json:
        print_json(
            {
                "notebooks": [_standing_json(each) for each in standings],
                "snapshot_bytes": used,
                "snapshot_budget_bytes": budget,
                "refused": [{"path": str(each.path), "reason": each.reason} for each in refused],
            }
        )
        return
    if not standings:
        click.echo("there are no notebooks yet; make some with `quietmind notebook auto`")
        return
    _print_list(standings)
    for each in refused:
        click.echo(f"not used: {shown_path(each.path)}: {each.reason}")
    click.echo(f"snapshots take {format_bytes(used)} of {format_bytes(budget)}")


def _print_list(standings: list[Standing]) -> None:
    from quietmind.plan.table import align

    rows = [("notebook", "from", "notes", "tokens", "on disk", "kept", "read")]
    for each in standings:
        reading = each.notebook.reading
        rows.append(
            (
                each.notebook.name,
                _source_words(each.notebook),
                f"{len(each.notebook.members):,}",
                f"{reading.tokens:,}" if reading else "-",
                format_bytes(each.bytes) + (" pinned" if each.pinned else "") if each.stored else "-",
                level_words(each.stored[0]) if each.stored else "-",
                f"due: {each.due}" if each.due else reading.when[:16].replace("T", " ") if reading else "",
            )
        )
    click.echo("\n".join(visible(line) for line in align(rows, {0, 1, 5, 6})))


@notebook.command()
@click.argument("name")
@_model_option
@json_option
@workspace_option
@debug_option
@pass_state
def show(state: State, name: str, model: str | None, as_json: bool, workspace: Path) -> None:
    """Show what the notebook NAME holds, in the order in which it is read, and what is stored of it."""
    from quietmind.workspace.laid import left_out
    from quietmind.workspace.store import open_store
    from quietmind.workspace.workspace import Workspace

    with Workspace(workspace) as archive:
        found = archive.notebooks.named(name)
        store = open_store(archive.folder)
        expected = _expected(model or state.settings.model, named=model is not None)
        standing = _standing(archive, found, store.snapshots(), expected)
        without = left_out(archive.notebooks, name, archive.notebooks.passages(found)) or []
    if as_json:
        print_json(
            _standing_json(standing)
            | {
                "members": [_member_json(member) for member in found.members],
                "left_out": [
                    {"path": str(each.path), "first_line": each.first_line, "last_line": each.last_line}
                    for each in without
                ],
                "snapshots": [_snapshot_json(snapshot) for snapshot in standing.stored],
            }
        )
        return
    click.echo(f"{found.name}: {_members(found)} from {_source_words(found)}")
    for member in found.members[:_LISTED]:
        click.echo(f"  {_place(member)}")
    if len(found.members) > _LISTED:
        click.echo(f"  and {len(found.members) - _LISTED:,} more (--json lists all)")
    _print_reading(standing, without)


def _print_reading(standing: Standing, without: Sequence[Passage]) -> None:
    reading = standing.notebook.reading
    if reading:
        click.echo(f"read {reading.when}: {reading.tokens:,} tokens, from nothing in {shown_time(reading.seconds)}")
    if without:
        click.echo(f"{counted(len(without), 'passage')} found no room in the context:")
    for passage in without[:_LISTED]:
        click.echo(f"  {shown_path(passage.path)}:{passage.first_line}-{passage.last_line}")
    if standing.due:
        click.echo(f"due: {standing.due}; run `quietmind read`")
    for snapshot in standing.stored:
        header = snapshot.header
        click.echo(
            f"snapshot {snapshot.path.name}: {header.tokens:,} tokens, {format_bytes(snapshot.bytes)} of "
            f"{format_bytes(header.raw_bytes)} ({level_words(snapshot)}){', pinned' if snapshot.pinned else ''}, "
            f"made {header.made}"
        )
        if said := measured_words(snapshot):
            click.echo(f"  {said}")


@notebook.command("read")
@click.argument("name")
@reading_options
@json_option
@workspace_option
@debug_option
@pass_state
def read_one(state: State, /, name: str, as_json: bool, workspace: Path, **given: Any) -> None:
    """Read the notebook NAME if it is due, as `quietmind read NAME` does."""
    run(state, (name,), workspace, as_json=as_json, **given)


@notebook.command()
@click.argument("name")
@json_option
@workspace_option
@debug_option
def drop(name: str, as_json: bool, workspace: Path) -> None:
    """Forget the notebook NAME and remove what is stored of it. The notes stay."""
    from quietmind.workspace.store import open_store, snapshots_of
    from quietmind.workspace.workspace import Workspace

    with Workspace(workspace) as archive:
        archive.notebooks.drop(name)
        store = open_store(archive.folder)
        stored = snapshots_of(store.snapshots(), name)
        for snapshot in stored:
            store.remove(snapshot)
    freed = sum(snapshot.bytes for snapshot in stored)
    if as_json:
        print_json({"name": name, "freed_bytes": freed})
    else:
        click.echo(f"{name}: dropped, {format_bytes(freed)} freed")


@notebook.command()
@click.argument("name")
@json_option
@workspace_option
@debug_option
def pin(name: str, as_json: bool, workspace: Path) -> None:
    """Keep what is stored of the notebook NAME when room is needed for others."""
    _pin(name, workspace, pinned=True, as_json=as_json)


@notebook.command()
@click.argument("name")
@json_option
@workspace_option
@debug_option
def unpin(name: str, as_json: bool, workspace: Path) -> None:
    """Let what is stored of the notebook NAME go when room is needed for others."""
    _pin(name, workspace, pinned=False, as_json=as_json)


def _pin(name: str, workspace: Path, *, pinned: bool, as_json: bool) -> None:
    from quietmind.workspace.store import open_store, snapshots_of
    from quietmind.workspace.workspace import Workspace

    with Workspace(workspace) as archive:
        archive.notebooks.named(name)
        store = open_store(archive.folder)
        stored = snapshots_of(store.snapshots(), name)
        if pinned and not stored:
            raise UsageError(f"nothing is stored of the notebook {name!r}; read it first: quietmind read {name!r}")
        for snapshot in stored:
            store.pin(snapshot, pinned)
    if as_json:
        print_json({"name": name, "pinned": pinned, "snapshots": len(stored)})
    else:
        click.echo(f"{name}: {'pinned' if pinned else 'no longer pinned'}, {counted(len(stored), 'snapshot')}")


def _asking() -> click.Command:
    """Return ``quietmind ask`` with the notebook in front of the question."""
    callback = ask.callback
    assert callback is not None

    def asked(**given: Any) -> Any:
        """Answer QUESTION from the notebook NAME, as `quietmind ask QUESTION --notebook NAME` does."""
        return callback(passages=None, **given)

    options = [param for param in ask.params if param.name not in ("notebook", "passages")]
    return click.Command(
        "ask", callback=asked, params=[click.Argument(["notebook"], metavar="NAME"), *options], help=asked.__doc__
    )


notebook.add_command(auto)
notebook.add_command(_asking())


def _expected(model: str, *, named: bool) -> dict[str, str]:
    """Return what is known of a reading's fingerprint without an engine: the weights, if the model is here."""
    from quietmind.model.gguf import read_card
    from quietmind.model.locate import locate
    from quietmind.workspace.identity import weights_digest

    try:
        card = read_card(locate(model))
        return {"weights": weights_digest(card.files or (card.path,))}
    except ModelError:
        if named:
            raise
        return {}


def _standing(
    archive: Workspace, found: Notebook, snapshots: tuple[Snapshot, ...], expected: dict[str, str]
) -> Standing:
    from quietmind.workspace.due import standing

    return standing(found, archive.notebooks.passages(found), snapshots, expected)


def _members(found: Notebook) -> str:
    notes = len({member.path for member in found.members})
    stretches = any(member.first_line for member in found.members)
    return (
        f"{counted(len(found.members), 'passage')} of {counted(notes, 'note')}" if stretches else counted(notes, "note")
    )


def _source_words(found: Notebook) -> str:
    source = found.source
    if source.kind == "auto":
        return f"the division of {shown_path(source.value)}" if source.value else "the division of all"
    return {"path": shown_path(source.value), "query": repr(source.value), "tag": f"#{source.value}"}[source.kind]


def _place(member: Member) -> str:
    if member.first_line is None:
        return shown_path(member.path)
    return f"{shown_path(member.path)}:{member.first_line}-{member.last_line or ''}"


def _described(found: Notebook) -> dict[str, Any]:
    reading = found.reading
    return {
        "name": found.name,
        "source": {"kind": found.source.kind, "value": found.source.value},
        "made": found.made,
        "notes": len({member.path for member in found.members}),
        "tokens": reading.tokens if reading else None,
        "read": reading.when if reading else None,
        "seconds_from_nothing": reading.seconds if reading else None,
    }


def _standing_json(standing: Standing) -> dict[str, Any]:
    return _described(standing.notebook) | {
        "due": standing.due or None,
        "bytes": standing.bytes,
        **level_json(standing.stored[0] if standing.stored else None),
        "pinned": standing.pinned,
    }


def _member_json(member: Member) -> dict[str, Any]:
    return {"path": str(member.path), "first_line": member.first_line, "last_line": member.last_line}


def _snapshot_json(snapshot: Snapshot) -> dict[str, Any]:
    header = snapshot.header
    return {
        "path": str(snapshot.path),
        "tokens": header.tokens,
        "bytes": snapshot.bytes,
        "raw_bytes": header.raw_bytes,
        "codec": header.codec,
        **level_json(snapshot),
        "seconds": round(header.seconds, 3),
        "pinned": snapshot.pinned,
        "made": header.made,
    }
