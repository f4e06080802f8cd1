"""``quietmind watch``: keep the index in step with the files while they change."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from quietmind.base.paths import shown_path
from quietmind.cli.elsewhere import CopyKept
from quietmind.cli.options import AnyPath, State, debug_option, pass_state, workspace_option
from quietmind.cli.output import counted

if TYPE_CHECKING:
    from quietmind.notes.report import Report
    from quietmind.notes.watching import Event
    from quietmind.workspace.vectors_kept import VectorsKept

_LISTED = 3  # skipped files of a batch that are printed
_PRINTING = threading.Lock()


@click.command()
@click.argument("folders", nargs=-1, type=AnyPath(), metavar="[FOLDER]...")
@click.option(
    "--poll",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="Walk the folders this often and wait for no notifications: for network folders.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document a line instead of text.")
@click.option("--allow-remote", multiple=True, metavar="HOST", help="Consent that a copy of the index is kept there.")
@click.option("--no-embed", is_flag=True, help="Leave vectors to `quietmind embed`.")
@workspace_option
@debug_option
@pass_state
def watch(
    state: State,
    folders: tuple[Path, ...],
    poll: float | None,
    no_embed: bool,
    as_json: bool,
    allow_remote: tuple[str, ...],
    workspace: Path,
) -> None:
    """Follow the indexed folders, or those named, and keep the index in step until stopped with Ctrl-C.

    A change can be found within a second. What changed while nothing watched is caught up with first. Where an embedder
    is set, or has been, notes get their vectors too, by a process that waits for everything else.
    """
    from quietmind.workspace.workspace import Workspace

    with _ended_by_signal(), Workspace(workspace) as archive, archive.watch(folders, poll) as events:
        copy = CopyKept(archive, state.settings, allow_remote)
        with _vectors_kept(archive.folder, None if no_embed else state, allow_remote, as_json) as vectors:
            for event in events:
                _say(_json_line(event) if as_json else _line(event))
                copy.follow()
                if vectors is not None and _may_lack_vectors(event):
                    vectors.follow()


@contextmanager
def _vectors_kept(
    folder: Path, state: State | None, allow_remote: Sequence[str], as_json: bool
) -> Iterator[VectorsKept | None]:
    """Keep vectors in step inside, with the embedder of the settings or the one whose vectors there are, if any."""
    from quietmind.workspace.vectors_kept import VectorsKept, embedder_to_keep

    embedder = None if state is None else embedder_to_keep(folder, state.settings.embedder)
    if embedder is None:
        yield None
        return
    arguments = ["embed", "--json", "--threads", "1", "--workspace", str(folder), "--embedder", embedder]
    arguments += [word for host in allow_remote for word in ("--allow-remote", host)]

    def made(done: dict[str, Any]) -> None:
        left = f"{counted(done['waiting'], 'passage')} still without" if done["waiting"] else "every passage has one"
        line = f"{time.strftime('%H:%M:%S')}  vectors: {counted(done['embedded'], 'passage')} embedded, {left}"
        _say(json.dumps({"at": _now(), "news": "embedded", "root": None} | done) if as_json else line)

    def failed(why: str) -> None:
        line = f"{time.strftime('%H:%M:%S')}  vectors: {why}; it is tried again"
        _say(json.dumps({"at": _now(), "news": "delayed", "root": None, "said": why}) if as_json else line)

    with VectorsKept(arguments, made, failed) as kept:
        yield kept


def _may_lack_vectors(event: Event) -> bool:
    """Say whether a passage may be new: always at first, when notes may have changed since vectors were made."""
    return event.news == "current" or (event.report is not None and event.report.added + event.report.changed > 0)


def _say(line: str | bytes) -> None:
    """Print a line at once; two threads do."""
    with _PRINTING:
        click.echo(line)
        sys.stdout.flush()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Have SIGTERM, which ends a service, end the block as Ctrl-C does, but as something that went well."""
    ended = False

    def end(_signal: int, _frame: FrameType | None) -> None:
        nonlocal ended
        ended = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        if not ended:
            raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _line(event: Event) -> str:
    """Return ``12:03:11  notes: 3 changed, 1 removed, searchable after 0.4 s``, and a line for each skipped file."""
    start = f"{time.strftime('%H:%M:%S')}  "
    if event.report is None:
        return f"{start}{event.said}"
    report = event.report
    notes = report.added + report.changed + report.unchanged
    counts = [
        f"{number:,} {what}"
        for number, what in ((report.added, "added"), (report.changed, "changed"), (report.removed, "removed"))
        if number
    ]
    if event.news != "changed":
        what = "back, " if event.news == "back" else ""
        counts = [f"{what}{counted(notes, 'note')}", *counts]
    took = f"searchable after {event.seconds:.1f} s" if event.seconds is not None else f"read in {report.seconds:.1f} s"
    skipped = [skip for skip in report.skipped if not skip.transient or event.news != "changed"]
    lines = [f"{start}{shown_path(report.root)}: {', '.join([*counts, took])}"]
    lines += [f"          skipped: {shown_path(skip.path)}: {skip.reason}" for skip in skipped[:_LISTED]]
    if len(skipped) > _LISTED:
        lines.append(f"          and {len(skipped) - _LISTED:,} more skipped (`quietmind status` says which)")
    return "\n".join(lines)


def _json_line(event: Event) -> bytes:
    told: dict[str, Any] = {
        "at": _now(),
        "news": event.news.value,
        "root": str(event.root) if event.root else None,
    }
    if event.report is not None:
        told |= _counts(event.report)
        told["searchable_after"] = None if event.seconds is None else round(event.seconds, 3)
    else:
        told["said"] = event.said
    return json.dumps(told, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _counts(report: Report) -> dict[str, Any]:
    return {
        "added": report.added,
        "changed": report.changed,
        "removed": report.removed,
        "unchanged": report.unchanged,
        "skipped": [{"path": str(skip.path), "reason": skip.reason} for skip in report.skipped],
        "seconds": round(report.seconds, 3),
    }
