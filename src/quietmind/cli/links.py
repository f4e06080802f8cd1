"""``quietmind links``: what notes lead to, what leads to them, and what leads nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quietmind.base.errors import NotesError, UsageError
from quietmind.base.paths import shown_path
from quietmind.cli.options import debug_option, json_option, workspace_option
from quietmind.cli.output import counted, print_json, visible

if TYPE_CHECKING:
    from quietmind.notes.linking import Edge, Linking, Place

_SORTS = {"wiki": "wiki", "embed": "embedded", "markdown": "Markdown", "id": "by id", "code": "of code"}


@click.command()
@click.argument("note", required=False)
@click.option("--broken", is_flag=True, help="List the links that lead nowhere, or in doubt where to.")
@click.option("--orphans", is_flag=True, help="List the notes that no other leads to.")
@click.option("--id", "name", metavar="ID", help="Where a requirement (REQ-12) or a function is defined and used.")
@json_option
@workspace_option
@debug_option
def links(note: str | None, broken: bool, orphans: bool, name: str | None, as_json: bool, workspace: Path) -> None:
    """Show where NOTE leads and what leads to it; without NOTE, count the links of the archive.

    NOTE is a path, or what a link would call it. Links are wiki links, Markdown links, ids of requirements, and
    identifiers of code.
    """
    from quietmind.workspace.workspace import Workspace

    if sum((note is not None, broken, orphans, name is not None)) > 1:
        raise UsageError("NOTE, --broken, --orphans and --id are different questions; ask one of them")
    with Workspace(workspace) as archive:
        linking = archive.links()
        if linking.unread:
            were = "notes were" if linking.unread > 1 else "note was"
            click.echo(
                f"warning: {linking.unread:,} {were} indexed before links were looked for; run `quietmind index`",
                err=True,
            )
        if note is not None:
            _print_note(linking, linking.note(note), as_json=as_json)
        elif broken:
            _print_broken(linking, as_json=as_json)
        elif orphans:
            _print_orphans(linking, as_json=as_json)
        elif name is not None:
            _print_named(linking, name, as_json=as_json)
        else:
            _print_summary(linking, as_json=as_json)


def edge_as_json(edge: Edge) -> dict[str, Any]:
    """Return ``edge`` as commands print it."""
    return {
        **place_as_json(edge.source),
        "via": edge.via.value,
        "target": edge.target,
        "anchor": edge.anchor,
        "outcome": edge.outcome.value,
        "leads": [place_as_json(place) for place in edge.leads],
    }


def place_as_json(place: Place) -> dict[str, Any]:
    """Return ``place`` as commands print it."""
    return {"path": str(place.path), "line": place.line}


def shown_source(edge: Edge) -> str:
    """Return where ``edge`` stands and what it says, on one line."""
    return f"{_shown(edge.source)}  {visible(edge.written)}{'  (or another of that name)' if edge.leads[1:] else ''}"


def _print_note(linking: Linking, path: Path, *, as_json: bool) -> None:
    leading, backlinks = linking.of(path), linking.to(path)
    if as_json:
        print_json(
            {
                "path": str(path),
                "links": [edge_as_json(edge) for edge in leading],
                "backlinks": [edge_as_json(edge) for edge in backlinks],
            }
        )
        return
    click.echo(f"{shown_path(path)}: {counted(len(leading), 'link')}, {counted(len(backlinks), 'backlink')}")
    width = max((len(str(edge.source.line)) for edge in leading), default=0)
    for edge in leading:
        click.echo(f"  {edge.source.line:>{width}}  {visible(edge.written)}  {_leads(edge)}")
    if backlinks:
        click.echo("linked from")
    for edge in backlinks:
        click.echo(f"  {shown_source(edge)}")


def _print_broken(linking: Linking, *, as_json: bool) -> None:
    from quietmind.notes.linking import Outcome

    found = [
        (edge, linking.suggestion(edge.target) if edge.outcome is Outcome.BROKEN else None) for edge in linking.wrong()
    ]
    if as_json:
        print_json([edge_as_json(edge) | {"suggestion": str(near) if near else None} for edge, near in found])
        return
    for edge, near in found:
        hint = f"; did you mean {shown_path(near)}?" if near else ""
        click.echo(f"{_shown(edge.source)}  {visible(edge.written)}  {_leads(edge)}{hint}")
    if not found:
        click.echo("no link is broken")


def _print_orphans(linking: Linking, *, as_json: bool) -> None:
    found = linking.orphans()
    if as_json:
        print_json([{"path": str(one.path), "title": one.title, "leads_to": one.leads_to} for one in found])
        return
    for one in found:
        onward = f"leads to {counted(one.leads_to, 'note')}" if one.leads_to else "leads nowhere"
        click.echo(f"{shown_path(one.path)}  {onward}")
    if not found:
        click.echo("some note leads to every note")


def _print_named(linking: Linking, name: str, *, as_json: bool) -> None:
    found = linking.named(name)
    sorts = {"defined": found.defined, "elsewhere": found.elsewhere, "used": found.used}
    if not any(sorts.values()):
        raise NotesError(
            f"{name}: neither defined nor used in the indexed notes; write it as the notes do, case and all"
        )
    if as_json:
        print_json({"id": name} | {sort: [place_as_json(place) for place in places] for sort, places in sorts.items()})
        return
    titles = {"defined": "defined", "elsewhere": "heads a line at", "used": "used"}
    for sort, places in sorts.items():
        doubt = f" in {len(places)} places" if sort == "defined" and places[1:] else ""
        for number, place in enumerate(places):
            if number == 0:
                click.echo(f"{titles[sort]}{doubt}")
            click.echo(f"  {_shown(place)}")
    if not found.defined:
        click.echo("defined nowhere")


def _print_summary(linking: Linking, *, as_json: bool) -> None:
    from quietmind.notes.linking import WRONG

    found = linking.summary()
    if as_json:
        counts: dict[str, dict[str, int]] = {}
        for (via, outcome), count in sorted(found.counts.items()):
            counts.setdefault(via.value, {})[outcome.value] = count
        most = [{"path": str(path), "notes": count} for path, count in found.most_linked]
        print_json({"notes": found.notes, "links": counts, "orphans": found.orphans, "most_linked": most})
        return
    sorts = {
        title: sum(count for (via, _), count in found.counts.items() if via.value == sort)
        for sort, title in _SORTS.items()
    }
    told = ", ".join(f"{count:,} {title}" for title, count in sorts.items() if count)
    click.echo(f"{counted(found.notes, 'note')}, {counted(sum(sorts.values()), 'link')}{f' ({told})' if told else ''}")
    wrong = {
        outcome: sum(count for (_, one), count in found.counts.items() if one is outcome) for outcome in sorted(WRONG)
    }
    if told := ", ".join(f"{count:,} {outcome.value}" for outcome, count in wrong.items() if count):
        click.echo(f"wrong: {told}; quietmind links --broken")
    if found.orphans:
        click.echo(f"{counted(found.orphans, 'note')} that no other leads to; quietmind links --orphans")
    for number, (path, count) in enumerate(found.most_linked):
        if number == 0:
            click.echo("linked from most other notes")
        click.echo(f"  {count:>5,}  {shown_path(path)}")


def _leads(edge: Edge) -> str:
    """Return where ``edge`` leads, or what is wrong with it."""
    from quietmind.notes.linking import Outcome

    if edge.outcome is Outcome.AMBIGUOUS:
        several = ", ".join(map(_shown, edge.leads[:3])) + (", ..." if edge.leads[3:] else "")
        return f"ambiguous, {len(edge.leads)} of that name: {several}"
    if edge.outcome is Outcome.NO_HEADING:
        return f"{_shown(edge.leads[0])} has no such heading"
    if edge.outcome is Outcome.FOUND:
        return f"-> {_shown(edge.leads[0])}"
    return {Outcome.FILE: "a file", Outcome.UNDEFINED: "defined nowhere"}.get(edge.outcome, "broken")


def _shown(place: Place) -> str:
    return shown_path(place.path) + (f":{place.line}" if place.line is not None else "")
