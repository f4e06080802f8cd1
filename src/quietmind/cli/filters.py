"""The options that say in which passages to search, the same for every command that does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quietmind.cli.options import AnyPath
from quietmind.notes.document import Kind
from quietmind.notes.language import Language

if TYPE_CHECKING:
    from quietmind.notes.filtering import Filter
    from quietmind.workspace.workspace import Workspace


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--in``, ``--tag``, ``--lang``, ``--since``, ``--until``, ``--kind`` and ``--speaker``.

    The command gets ``within: Filter | None``; None where none of them is given.
    """

    @functools.wraps(command)
    def filtered(*args: Any, **given: Any) -> Any:
        names = ("folders", "tags", "languages", "since", "until", "kinds", "speakers")
        return command(*args, within=_filter(**{name: given.pop(name) for name in names}), **given)

    of = functools.partial(click.option, multiple=True)
    for option in (
        of("--speaker", "speakers", metavar="NAME", help="Only what NAME said in a chat: user, assistant, ..."),
        of("--kind", "kinds", type=click.Choice([kind.value for kind in Kind]), help="Only notes of this kind."),
        click.option("--until", metavar="DATE", help="Only up to this day, month or year, included."),
        click.option("--since", metavar="DATE", help="Only from 2024, 2024-05, 2024-05-17, or 30d (days ago) on."),
        of(
            "--lang",
            "languages",
            type=click.Choice([each.value for each in Language]),
            help="Only passages in this language.",
        ),
        of("--tag", "tags", metavar="TAG", help="Only notes with this tag, or a part of it; twice: with both."),
        of("--in", "folders", type=AnyPath(), metavar="FOLDER", help="Only notes below FOLDER, or one note."),
    ):
        filtered = option(filtered)
    return filtered


def warn_of_unread(archive: Workspace, within: Filter | None) -> None:
    """Say in a line that the filter does not find all notes yet, where so."""
    if within is None or not (within.tags or within.languages or within.since or within.until):
        return
    if count := archive.without_facets():
        were = "notes were" if count > 1 else "note was"
        click.echo(f"warning: {count:,} {were} indexed before there were filters; run `quietmind index`", err=True)


def _filter(
    folders: tuple[Path, ...],
    tags: tuple[str, ...],
    languages: tuple[str, ...],
    since: str | None,
    until: str | None,
    kinds: tuple[str, ...],
    speakers: tuple[str, ...],
) -> Filter | None:
    from datetime import date

    from quietmind.notes.dates import days_meant
    from quietmind.notes.filtering import Filter

    today = date.today()  # a person's days are local ones
    within = Filter(
        folders=folders,
        tags=tags,
        languages=tuple(map(Language, languages)),
        since=days_meant(since, today)[0] if since is not None else None,
        until=days_meant(until, today)[1] if until is not None else None,
        kinds=tuple(map(Kind, kinds)),
        speakers=speakers,
    )
    return within if within != Filter() else None
