"""Following folders of notes while they change: by what the file system tells, or by looking every few seconds.

A folder that cannot be looked at, or holds no notes any more, is away and not empty: nothing of it is taken out of the
index, and it is looked for until it is back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from pathlib import Path

from quietmind.base.errors import ArchiveLocked, DiskFull, NotesError
from quietmind.base.paths import shown_path
from quietmind.notes.index import Index
from quietmind.notes.report import Report
from quietmind.notes.scan import may_matter

QUIET_MS = 200  # without a further change before a batch is taken: with indexing, well below a second
BATCH_MS = 2_000  # a batch is taken after this long, quiet or not
POLL_SECONDS = 5.0
# A walk now and then finds what nobody told of: names that are not UTF-8, files behind links, lost notifications.
_WALK_SECONDS = 600.0
_LARGE_BATCH = 1_000  # paths; the kernel may have lost some of so many (inotify(7), max_queued_events), so walk soon
_AGAIN_SECONDS = 3.0  # between two looks for what is away, or two tries to write
_SHORTEST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 60.0  # before notifications that failed again and again are asked for once more


class News(StrEnum):
    """What there is to tell."""

    CURRENT = "current"  # the index holds what the folder holds; said once of each, at the beginning
    CHANGED = "changed"
    AWAY = "away"
    BACK = "back"
    DELAYED = "delayed"  # changes wait: another process writes, or the disk is full
    POLLING = "polling"  # there are no notifications


@dataclass(frozen=True)
class Event:
    """Something that happened to ``root``: what was written, or what is in the way, in one line.

    ``seconds`` are those from the earliest change until it could be found; None where the files do not tell.
    """

    news: News
    root: Path | None
    report: Report | None = None
    said: str | None = None
    seconds: float | None = None


@dataclass
class _Followed:
    """A root: changes that are still to be written, and what it was when it was last looked at (None: away)."""

    root: Path
    identity: tuple[int, int] | None = None
    pending: set[str] = field(default_factory=set)
    told_current: bool = False
    delayed: bool = False
    again_at: float = 0.0
    walk_at: float = 0.0


class _NoNotifications(Exception):
    """The file system's notifications cannot be had; the message says why and what to do."""


class _LostNotifications(Exception):
    """Some notifications did not come through; new ones can be asked for."""


def follow(index: Index, roots: Sequence[Path], *, poll_seconds: float | None = None) -> Iterator[Event]:
    """Keep ``index`` in step with ``roots`` for as long as it is asked for the next event; never ends by itself.

    ``roots`` have all links resolved. With ``poll_seconds`` they are walked that often, and no notifications asked for
    (a network folder tells nothing of what other computers do). Raises WorkspaceError where the database fails.
    """
    following = [_Followed(root, _identity(root)) for root in roots]
    failures = 0
    while True:
        here = _here(following)
        for each in following:
            each.walk_at = 0.0  # once notifications flow: what changed before them is found by nothing else
        try:
            with closing(_changes([root for root, _ in here], poll_seconds)) as changes:
                for paths in changes:
                    failures = 0 if paths else failures
                    yield from _told(index, following, paths)
                    if here != _here(following):
                        break
        except _NoNotifications as error:
            yield Event(News.POLLING, None, said=str(error))
            poll_seconds = POLL_SECONDS
        except _LostNotifications:
            # Reading a file whose name is not UTF-8 is such a failure too, and the walk that comes now may read it.
            time.sleep(min(_SHORTEST_WAIT_SECONDS * 2**failures, _LONGEST_WAIT_SECONDS))
            failures += 1


def _here(following: Sequence[_Followed]) -> list[tuple[Path, tuple[int, int]]]:
    """Return the roots that are not away, each with what tells it from another folder of its name."""
    return [(each.root, each.identity) for each in following if each.identity is not None]


def _told(index: Index, following: Sequence[_Followed], paths: Collection[str]) -> Iterator[Event]:
    """Write what is to be written, after changes at ``paths`` or, without any, a moment in which nothing happened."""
    since = _earliest_change(paths)
    for each in following:
        each.pending |= {path for path in paths if may_matter(str(each.root), path)}
        now = time.monotonic()
        if now < each.again_at:
            continue
        if each.identity != _identity(each.root) or now >= each.walk_at:
            each.pending = {str(each.root)}
        if each.pending:
            event = _followed(index, each)
            if event is not None and event.report is not None and since is not None and event.news is News.CHANGED:
                event = Event(event.news, event.root, event.report, seconds=max(0.0, time.time() - since))
            if event is not None:
                yield event


def _followed(index: Index, each: _Followed) -> Event | None:
    """Have the index follow one root; return what there is to tell of it."""
    was_here, identity = each.identity is not None, _identity(each.root)
    try:
        report = index.refresh(each.root, each.pending)
    except NotesError as error:
        each.again_at = time.monotonic() + _AGAIN_SECONDS
        each.identity = None
        if was_here or not each.told_current:
            each.told_current = True
            return Event(News.AWAY, each.root, said=f"{error}; it is looked for until it is back")
        return None
    except (ArchiveLocked, DiskFull) as error:
        each.again_at = time.monotonic() + _AGAIN_SECONDS
        said, each.delayed = each.delayed, True
        return None if said else Event(News.DELAYED, each.root, said=f"{error}; it is tried again until it works")
    whole = str(each.root) in each.pending
    if len(each.pending) >= _LARGE_BATCH:
        each.walk_at = time.monotonic() + _AGAIN_SECONDS
    elif whole:
        each.walk_at = time.monotonic() + _WALK_SECONDS
    told_current, each.told_current = each.told_current, True
    each.identity, each.delayed, each.again_at = identity, False, 0.0
    each.pending.clear()
    if not told_current:
        return Event(News.CURRENT, each.root, report)
    if not was_here:
        return Event(News.BACK, each.root, report)
    lasting = any(not skip.transient for skip in report.skipped) and not whole
    return Event(News.CHANGED, each.root, report) if report.added + report.changed + report.removed or lasting else None


def _changes(roots: Sequence[Path], poll_seconds: float | None) -> Generator[set[str], None, None]:
    """Yield the paths that changed, batch after batch, and nothing every moment without a change.

    Raises _NoNotifications, _LostNotifications.
    """
    if not roots or poll_seconds is not None:
        yield set()
        while True:
            time.sleep(poll_seconds or _AGAIN_SECONDS)
            yield {str(root) for root in roots}
    try:
        import watchfiles  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise _NoNotifications(
            f"the package watchfiles is not installed (pip install 'quietmind[watch]'); {_polling()}"
        ) from error

    try:
        yield from _notified(roots, lenient=False)
    except PermissionError:
        # With this permission watchfiles says nothing of the system's limits either, so it is the second choice.
        yield from _notified(roots, lenient=True)


def _notified(roots: Sequence[Path], *, lenient: bool) -> Generator[set[str], None, None]:
    """Yield what the file system tells, ``lenient`` passing over folders that may not be read; end after a new folder.

    Past the system's limit a new folder is quietly not watched; whoever begins anew is told. Raises PermissionError,
    _NoNotifications, _LostNotifications.
    """
    import watchfiles

    def matters(_change: object, path: str) -> bool:
        return any(may_matter(str(root), path) for root in roots)

    try:
        for changes in watchfiles.watch(
            *roots,
            watch_filter=matters,
            debounce=BATCH_MS,
            step=QUIET_MS,
            rust_timeout=QUIET_MS,
            yield_on_timeout=True,
            force_polling=False,
            ignore_permission_denied=lenient,
        ):
            yield {path for _, path in changes}
            if any(change is watchfiles.Change.added and os.path.isdir(path) for change, path in changes):  # noqa: PTH112
                return
    except FileNotFoundError:
        yield set()  # a root is gone: the next look at it says so
    except PermissionError:
        raise
    except OSError as error:
        raise _NoNotifications(_no_notifications(error)) from error
    except RuntimeError as error:
        if "Too many open files" in str(error):
            raise _NoNotifications(_no_notifications(error)) from error
        raise _LostNotifications(" ".join(str(error).split())) from error  # the name of a file is not UTF-8, say


def _no_notifications(error: Exception) -> str:
    said = str(error)
    if "watch limit" in said or "Too many open files" in said:
        limit = "max_user_watches=1048576" if "watch limit" in said else "max_user_instances=1024"
        return (
            f"the system's limit of watched folders is reached; raise it: sudo sysctl fs.inotify.{limit}; {_polling()}"
        )
    return f"the file system gives no notifications ({' '.join(said.split())}); {_polling()}"


def _polling() -> str:
    return f"the folders are looked at every {POLL_SECONDS:.0f} s instead"


def _identity(root: Path) -> tuple[int, int] | None:
    """Return what tells a folder from another one of its name: another disk may be mounted there, or none any more."""
    try:
        status = root.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _earliest_change(paths: Collection[str]) -> float | None:
    """Return when the earliest of the changes was made, in seconds since 1970, as far as the files tell.

    A file that is gone leaves its folder changed. What claims to be older than a batch can be was only moved there, or
    the clock was set.
    """
    now = time.time()
    times: list[float] = []
    for path in islice(paths, _LARGE_BATCH):
        for place in (path, os.path.dirname(path)):  # noqa: PTH120 - thousands of them
            try:
                times.append(os.lstat(place).st_ctime)
                break
            except OSError:
                continue
    oldest = now - (BATCH_MS + 2 * QUIET_MS) / 1000
    return min((moment for moment in times if oldest <= moment <= now), default=None)


def refused(root: Path, roots: Sequence[Path]) -> NotesError:
    """Return the error for a folder that is asked to be followed and is not one of the indexed ``roots``."""
    indexed = ", ".join(map(shown_path, roots)) or "none"
    return NotesError(
        f"{shown_path(root)}: is not among the indexed folders ({indexed}); index it first: "
        f"quietmind index {shown_path(root)}"
    )
