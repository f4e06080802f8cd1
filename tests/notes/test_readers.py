"""Files read by several processes give what they give when read by one, whatever happens to the processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.sqlite import connect
from quietmind.notes import index as index_module
from quietmind.notes import readers
from quietmind.notes.index import Index
from quietmind.notes.intake import Taken, Wanted
from quietmind.notes.readers import Item, read_all, readers_for
from quietmind.notes.schema import MIGRATIONS

# What differs between two indexes of the same files: when they were made, how their batches were merged.
CHANCE = tuple(f'INSERT INTO "{table}"' for table in ("migrations", "updates", "lemmas_data", "lemmas_idx"))
NOTE = "# Полив {0}\n\nНасос {0} проверяют по REQ-{0}, см. [[note {1}]] и `pump.start`.\n\n#теплица/полив\n"


@pytest.fixture
def wanted(tmp_path: Path) -> list[tuple[Wanted, int]]:
    files = []
    for number in range(30):
        path = tmp_path / "notes" / f"note {number:02}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(NOTE.format(number, number + 1), encoding="utf-8")
        files.append((Wanted(str(path)), path.stat().st_size))
    files.append((Wanted(str(tmp_path / "gone.md")), 100))
    return files


@pytest.fixture(autouse=True)
def small_bundles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(readers, "_BUNDLE_FILES", 4)
    yield
    assert reader_pids() == [], "readers are left"


def read(wanted: list[tuple[Wanted, int]], count: int) -> list[Item]:
    return comparable(read_all(wanted, count))


def comparable(items: Iterable[Item]) -> list[Item]:
    """Without whether the files were old enough by then."""
    return [replace(item, settled=True) if isinstance(item, Taken) else item for item in items]


def reader_pids(of: int | None = None) -> list[int]:
    return [
        child.pid
        for child in psutil.Process(of).children()
        if "quietmind.notes.reader_child" in child.cmdline() or child.status() == psutil.STATUS_ZOMBIE
    ]


def test_readers_give_what_reading_here_gives_in_the_order_that_was_asked_for(
    wanted: list[tuple[Wanted, int]],
) -> None:
    here = read(wanted, 0)
    assert [item.document.path.name for item in here if isinstance(item, Taken)] == [
        f"note {number:02}.md" for number in range(30)
    ]
    assert read(wanted, 2) == here


def test_what_a_killed_reader_had_to_read_is_read_here(wanted: list[tuple[Wanted, int]]) -> None:
    here = read(wanted, 0)
    with closing(read_all(wanted, 2)) as items:
        found = [next(items)]
        first, second = reader_pids()
        os.kill(first, signal.SIGKILL)
        found += [next(items) for _ in range(12)]
        os.kill(second, signal.SIGKILL)
        found += items
    assert comparable(found) == here


def test_without_any_reader_all_is_read_here(wanted: list[tuple[Wanted, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    here = read(wanted, 0)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert read(wanted, 2) == here
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert read(wanted, 2) == here


def test_who_stops_listening_leaves_no_reader_behind(wanted: list[tuple[Wanted, int]]) -> None:
    with closing(read_all(wanted, 2)) as items:
        next(items)
        assert len(reader_pids()) == 2
    assert reader_pids() == []


def test_readers_end_when_their_parent_is_killed(wanted: list[tuple[Wanted, int]]) -> None:
    script = (
        "import sys, time\n"
        "from quietmind.notes.intake import Wanted\n"
        "from quietmind.notes.readers import Item, read_all\n"
        "items = read_all([(Wanted(path), 1 << 20) for path in sys.argv[1:]], 2)\n"
        "next(items)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, *(each.path for each, _ in wanted)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        pids = reader_pids(parent.pid)
        parent.kill()
    assert len(pids) == 2
    deadline = time.monotonic() + 30
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, pids))


def test_an_index_is_the_same_however_many_readers_it_had(
    wanted: list[tuple[Wanted, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dumps = []
    for count in (0, 2):
        monkeypatch.setattr(index_module, "readers_for", lambda *_, count=count: count)
        database = tmp_path / f"{count}.db"
        with closing(connect(database, MIGRATIONS)) as connection:
            Index(connection, database).update(Path(wanted[0][0].path).parent)
            connection.execute("UPDATE documents SET settled = 1")
            dumps.append([line for line in connection.iterdump() if not line.startswith(CHANCE)])
    assert len(dumps[0]) > 200
    assert dumps[0] == dumps[1]


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 1 << 20)), max_size=200))
def test_bundles_hold_all_in_order_and_fit_into_a_pipe(files: list[tuple[int, int]]) -> None:
    wanted = [(Wanted("п" * name), size) for name, size in files]
    bundles = list(readers._bundles(wanted))
    assert [each for bundle in bundles for each in bundle] == [each for each, _ in wanted]
    assert all(bundles)
    for bundle in bundles:
        assert len(bundle) == 1 or sum(len(os.fsencode(each.path)) for each in bundle) <= readers._BUNDLE_NAMES


def test_little_is_read_here() -> None:
    assert readers_for(100, 100_000) == 0
