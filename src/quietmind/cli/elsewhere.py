"""What commands that change the index say of its copy elsewhere, where the settings want one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from quietmind.base.errors import IndexAway, UsageError
from quietmind.base.progress import SILENT, Progress
from quietmind.cli.output import counted

if TYPE_CHECKING:
    from quietmind.base.settings import Settings
    from quietmind.workspace.workspace import Workspace


class CopyKept:
    """The copy that the settings want of an archive's index, if they want one. Raises UsageError as place_of does."""

    def __init__(self, archive: Workspace, settings: Settings, allow_remote: Sequence[str]) -> None:
        from quietmind.workspace.elsewhere import Elsewhere, place_of

        place = place_of(settings, allow_remote, _warn)
        self._archive = archive
        self._elsewhere = Elsewhere(archive.folder, place) if place is not None else None
        self._embedder = settings.embedder
        self._failed = ""

    def bring_up_to_date(self, progress: Progress = SILENT) -> tuple[str, str]:
        """Bring it up to date; return a line that says so and one that says what is wrong, "" for nothing to say."""
        if self._elsewhere is None:
            return "", ""
        where = self._elsewhere.place.address
        try:
            brought = self._archive.bring_copy(self._elsewhere, self._embedder, progress)
        except IndexAway as error:
            return "", f"the copy of the index is not up to date: {error}"
        if brought is None:
            return f"{where}: another process is copying the index there", ""
        return (
            f"{where}: {counted(brought.put, 'passage')} copied, {brought.removed:,} removed; it holds "
            f"{counted(brought.counts.passages, 'passage')}, {brought.counts.with_vector:,} with a vector",
            "",
        )

    def follow(self, progress: Progress = SILENT) -> None:
        """Bring it up to date; say only, and once for the same failure, what is wrong."""
        _, failure = self.bring_up_to_date(progress)
        if failure and failure != self._failed:
            _warn(failure)
        self._failed = failure


def standing(archive: Workspace, settings: Settings, allow_remote: Sequence[str]) -> dict[str, object] | None:
    """Return what the copy holds, as a document: the setting, and counts or what is ``wrong``.

    None: the settings want no copy. The counts are None where nothing was copied yet.
    """
    from quietmind.workspace.elsewhere import Elsewhere, place_of

    try:
        place = place_of(settings, allow_remote)
        if place is None:
            return None
        counts = Elsewhere(archive.folder, place).counts()
    except (IndexAway, UsageError) as error:
        return {"index": settings.index, "wrong": str(error)}
    return {
        "index": settings.index,
        "passages": counts.passages if counts is not None else None,
        "with_vector": counts.with_vector if counts is not None else None,
        "of": archive.count_passages(),
    }


def shown_standing(told: Mapping[str, object]) -> str:
    """Return in a line what :func:`standing` returns."""
    if "wrong" in told:
        return f"not there: {told['wrong']}"
    if told["passages"] is None:
        return f"{told['index']}: not made yet; run `quietmind index`"
    return f"{told['index']}: {told['passages']:,} of {told['of']:,} passages, {told['with_vector']:,} with a vector"


def _warn(line: str) -> None:
    click.echo(f"warning: {line}", err=True)
