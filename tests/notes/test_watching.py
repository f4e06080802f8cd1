"""What happens in a followed folder is soon in the index, and what only looks like a deletion is none."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quietmind.base.sqlite import connect
from quietmind.notes import watching
from quietmind.notes.index import Index
from quietmind.notes.schema import MIGRATIONS
from quietmind.notes.search import documents, search
from quietmind.notes.watching import Event, News, follow


class Followed:
    """A folder of notes that is followed: whatever is done to it shows in the next event."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "notes"
        self.root.mkdir()
        self.database = folder / "archive.db"
        self.connection = connect(self.database, MIGRATIONS)
        self.index = Index(self.connection, self.database)
        self.write("kept.md")
        self.index.update(self.root)
        self.events = follow(self.index, [self.root])

    def write(self, name: str, text: str = "слова") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def next(self) -> Event:
        return next(self.events)

    def until(self, *names: str) -> list[Event]:
        """Return the events until exactly these notes are in the index."""
        events = []
        while self.names() != sorted(names):
            events.append(self.next())
        return events

    def names(self) -> list[str]:
        return [str(entry.path.relative_to(self.root)) for entry in documents(self.connection)]

    def found(self, query: str) -> list[str]:
        return [hit.passage.path.name for hit in search(self.connection, query)]


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Followed]:
    pytest.importorskip("watchfiles")

    def too_long(_signal: int, _frame: object) -> None:
        raise TimeoutError("the event that a test waits for does not come")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(240)
    followed = Followed(tmp_path)
    yield followed
    followed.events.close()  # type: ignore[attr-defined]  # it is a generator
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    assert followed.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    followed.connection.close()


def test_what_changed_while_nothing_watched_is_caught_up_with(followed: Followed) -> None:
    followed.write("missed.md", "кошка")
    event = followed.next()
    assert event.report is not None
    assert (event.news, event.report.added, event.report.unchanged) == (News.CURRENT, 1, 1)
    assert followed.found("кошки") == ["missed.md"]


def test_saved_moved_and_removed_notes_are_followed(followed: Followed) -> None:
    followed.next()
    followed.write("in/deep/a.md", "кошка")
    followed.until("in/deep/a.md", "kept.md")
    followed.write(".a.swap", "мышка").replace(followed.root / "in/deep/a.md")
    event = followed.next()
    assert event.report is not None
    assert (event.news, event.root, event.report.changed) == (News.CHANGED, followed.root, 1)
    assert (followed.found("мышки"), followed.found("кошка")) == (["a.md"], [])
    followed.write("kept.md", "птица")
    assert followed.next().seconds is not None
    (followed.root / "in").rename(followed.root / "out")
    followed.until("kept.md", "out/deep/a.md")
    followed.write("out/deep/b.md")  # the folder is followed under its new name
    followed.until("kept.md", "out/deep/a.md", "out/deep/b.md")
    shutil.rmtree(followed.root / "out")
    followed.until("kept.md")


def test_a_burst_of_thousands_is_few_batches(followed: Followed) -> None:
    followed.next()
    for number in range(5000):
        followed.write(f"{number % 100}/{number}.md", f"{number}")
    (followed.root / "kept.md").unlink()
    events = followed.until(*(f"{number % 100}/{number}.md" for number in range(5000)))
    assert len(events) <= 10


def test_a_root_that_goes_away_keeps_its_notes_and_is_looked_for(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_AGAIN_SECONDS", 0.1)
    followed.next()
    away = followed.root.rename(followed.root.with_name("away"))
    event = followed.next()
    assert (event.news, event.root) == (News.AWAY, followed.root)
    assert "--forget" in (event.said or "")
    assert followed.names() == ["kept.md"]
    away.rename(followed.root)
    assert followed.next().news is News.BACK
    followed.write("new.md")
    followed.until("kept.md", "new.md")


def test_the_last_note_of_a_root_is_not_taken_out(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_AGAIN_SECONDS", 0.1)
    followed.next()
    (followed.root / "kept.md").unlink()
    assert followed.next().news is News.AWAY
    assert followed.names() == ["kept.md"]
    followed.write("new.md")
    assert followed.next().news is News.BACK
    assert followed.names() == ["new.md"]


def test_a_name_that_is_not_utf8_stops_nothing(followed: Followed) -> None:
    followed.next()
    name = os.fsdecode(b"\xef\xf0.md")
    (followed.root / name).write_text("x")
    followed.until("kept.md", name)
    followed.write("new.md")
    followed.until("kept.md", "new.md", name)


def test_changes_wait_while_another_process_writes(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_AGAIN_SECONDS", 0.1)
    monkeypatch.setattr("quietmind.base.sqlite.LOCK_WAIT_SECONDS", 0.2)
    followed.next()
    other = sqlite3.connect(followed.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    followed.write("new.md")
    event = followed.next()
    assert (event.news, event.said is not None and "another process" in event.said) == (News.DELAYED, True)
    other.execute("ROLLBACK")
    other.close()
    followed.until("kept.md", "new.md")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError("OS file watch limit reached. about [...]"), "sysctl fs.inotify.max_user_watches="),
        (RuntimeError("Error creating recommended watcher: Too many open files"), "fs.inotify.max_user_instances="),
        (OSError("Function not implemented"), "the file system gives no notifications"),
    ],
)
def test_without_notifications_the_folders_are_polled(
    followed: Followed, monkeypatch: pytest.MonkeyPatch, error: Exception, advice: str
) -> None:
    import watchfiles

    def refusing(*_paths: object, **_how: object) -> None:
        raise error

    monkeypatch.setattr(watchfiles, "watch", refusing)
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.1)
    event = followed.next()
    assert (event.news, event.said is not None and advice in event.said) == (News.POLLING, True)
    assert "\n" not in (event.said or "")
    assert followed.next().news is News.CURRENT
    followed.write("new.md")
    followed.until("kept.md", "new.md")


def test_a_change_nobody_told_of_is_found_by_the_next_walk(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_WALK_SECONDS", 0.1)
    outside = followed.root.with_name("outside.md")
    outside.write_text("кошка", encoding="utf-8")
    (followed.root / "link.md").symlink_to(outside)
    followed.until("kept.md", "link.md")
    outside.write_text("мышка", encoding="utf-8")
    while followed.found("мышки") != ["link.md"]:
        followed.next()


def test_a_folder_that_may_not_be_read_does_not_keep_the_others_from_being_followed(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    import watchfiles

    real = watchfiles.watch

    def strict(*paths: Path, ignore_permission_denied: bool, **how: Any) -> Iterator[object]:
        if not ignore_permission_denied:
            raise PermissionError("Permission denied (os error 13)")
        return real(*paths, ignore_permission_denied=True, **how)

    monkeypatch.setattr(watchfiles, "watch", strict)
    followed.next()
    followed.write("new.md")
    followed.until("kept.md", "new.md")
