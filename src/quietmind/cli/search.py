"""``quietmind search``: find passages."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quietmind.base.paths import shown_path
from quietmind.cli.filters import filter_options, warn_of_unread
from quietmind.cli.links import edge_as_json, shown_source
from quietmind.cli.options import State, debug_option, json_option, pass_state, workspace_option
from quietmind.cli.output import flat, print_json, tell_place, visible, warn

if TYPE_CHECKING:
    from quietmind.notes.document import Hit, Passage
    from quietmind.notes.facets import PassageFacets
    from quietmind.notes.filtering import Filter
    from quietmind.notes.linking import Edge

_PREVIEW = 160
_BACKLINKS = 5  # of a passage that are printed


@click.command()
@click.argument("query")
@click.option("--limit", type=click.IntRange(1, 1000), default=10, show_default=True, help="Most passages to print.")
@click.option("--show", is_flag=True, help="Print whole passages, and what links to their notes.")
@filter_options
@click.option("--rerank", is_flag=True, help="Have the model judge the first passages and put those that answer first.")
@click.option("--model", help="The model that reranks, as for `quietmind ask` (default: tiny).")
@click.option("--allow-remote", multiple=True, metavar="HOST", help="Consent that QUERY is sent to this other host.")
@json_option
@workspace_option
@debug_option
@pass_state
def search(
    state: State,
    query: str,
    limit: int,
    show: bool,
    within: Filter | None,
    rerank: bool,
    model: str | None,
    allow_remote: tuple[str, ...],
    as_json: bool,
    workspace: Path,
) -> None:
    """Find passages in the indexed notes: by words, and by meaning where `quietmind embed` has been."""
    from quietmind.workspace.asked_model import AskedModel
    from quietmind.workspace.elsewhere import searched_elsewhere
    from quietmind.workspace.embedding import searcher
    from quietmind.workspace.reranking import FIRST, reranked
    from quietmind.workspace.workspace import Workspace

    with Workspace(workspace) as archive:
        elsewhere = searched_elsewhere(archive.folder, state.settings, allow_remote, warn)
        archive.search_with(searcher(archive.folder, state.settings.embedder, allow_remote, warn, elsewhere))
        warn_of_unread(archive, within)
        hits = archive.search(query, max(limit, FIRST) if rerank else limit, within)
        if rerank and len(hits) > 1:
            judge = AskedModel.of_settings(
                archive, state.settings, warn, tell_place, name=model, allow_remote=allow_remote
            )
            with judge.start() as engine:
                hits = reranked(engine, query, hits)[:limit]
        facets = archive.facets([hit.passage for hit in hits]) if as_json else [None] * len(hits)
        linking = archive.links() if show and hits else None
        backlinks = {path: linking.to(path) for path in {hit.passage.path for hit in hits}} if linking else {}
    if as_json:
        told = [_as_json(hit) | _facets_as_json(of_passage) for hit, of_passage in zip(hits, facets, strict=True)]
        if show:
            for hit, each in zip(hits, told, strict=True):
                each["backlinks"] = [edge_as_json(edge) for edge in backlinks[hit.passage.path]]
        print_json(told)
        return
    if not hits:
        click.echo("nothing found")
    for hit in hits:
        passage = hit.passage
        click.echo(
            f"{shown_path(passage.path)}:{passage.first_line}-{passage.last_line}  {visible(flat(passage.place))}"
        )
        if show:
            click.echo("\n".join(f"    {line}" for line in visible(passage.text).split("\n")))
            _print_backlinks(passage, backlinks[passage.path])
        else:
            preview = flat(passage.text)
            click.echo(f"    {visible(preview[:_PREVIEW])}{'…' if len(preview) > _PREVIEW else ''}")


def _as_json(hit: Hit) -> dict[str, Any]:
    passage = hit.passage
    return {
        "path": str(passage.path),
        "first_line": passage.first_line,
        "last_line": passage.last_line,
        "score": round(hit.score, 4),
        "text": passage.text,
        "title": passage.title,
        "heading": list(passage.heading),
        "coverage": round(hit.coverage, 3),
        "similarity": _rounded(hit.similarity),
        "crossed": _rounded(hit.crossed),
    }


def _rounded(likeness: float | None) -> float | None:
    return None if likeness is None else round(likeness, 4)


def _facets_as_json(facets: PassageFacets | None) -> dict[str, str | list[str] | None]:
    """Return what a passage can be filtered by; null where the index does not say."""
    if facets is None:
        return {"kind": None, "languages": None, "date": None}
    languages = None if facets.languages is None else [language.value for language in facets.languages]
    return {"kind": facets.kind.value, "languages": languages, "date": facets.day.isoformat()}


def _print_backlinks(passage: Passage, edges: list[Edge]) -> None:
    """Print what leads to the note of ``passage``, first what leads to the passage itself."""

    def leads_here(edge: Edge) -> bool:
        lines = (place.line for place in edge.leads if place.path == passage.path)
        return any(line is not None and passage.first_line <= line <= passage.last_line for line in lines)

    for edge in sorted(edges, key=lambda edge: not leads_here(edge))[:_BACKLINKS]:
        click.echo(f"  linked from {shown_source(edge)}{'  (this passage)' if leads_here(edge) else ''}")
    if len(edges) > _BACKLINKS:
        click.echo(f"  and {len(edges) - _BACKLINKS:,} more: quietmind links {shlex.quote(shown_path(passage.path))}")
    click.echo()
