"""Does to an archive what should never happen, and looks whether anything is lost, torn or wrongly answered.

    python benchmarks/archive_faults.py [--kills 50] [--tiny 100000] [--seed 0] [--only NAME ...]

Kills (archive_kills.py): a process that indexes, embeds or goes over to another embedder, so many times each. Then two
processes on one archive, a disk that is unmounted while it is indexed, a clock set back, names that change in case
only, many tiny files, a note of 50 MB and one of the largest size that is read, a tree too deep for a path, names that
are not UTF-8. Prints a prediction, a line for each fault and one line of JSON; ``wrong`` counts what should not be.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from archive_kills import (
    EMBEDDER,
    INDEXER,
    PATIENCE_S,
    Notes,
    child,
    contents,
    kill_embedding,
    kill_indexing,
    kill_switching,
    undisturbed,
    unsound,
)
from index_speed import watched_memory

from quietmind.base.errors import NotesError
from quietmind.base.sqlite import connect
from quietmind.notes.index import Index
from quietmind.notes.reading import MAX_FILE_BYTES
from quietmind.notes.report import Report
from quietmind.notes.search import documents, search
from quietmind.workspace.schema import ALL_MIGRATIONS, DATABASE

ROUNDS = 10  # of faults that are not kills
YEAR_S = 365 * 24 * 3600

CLOCK_SET_BACK = f"""
import time
now, now_ns = time.time, time.time_ns
time.time = lambda: now() - {YEAR_S}
time.time_ns = lambda: now_ns() - {YEAR_S} * 10**9
"""


class Archive:
    """A database in ``folder``, and the notes below ``folder``/notes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "notes"
        self.database = folder / DATABASE
        self.connection = connect(self.database, ALL_MIGRATIONS)
        self.index = Index(self.connection, self.database)
        self.wrong: list[str] = []

    def expect(self, what: str, *, holds: bool) -> None:
        """Count ``what`` as wrong unless it ``holds``."""
        if not holds:
            self.wrong.append(what)

    def update(self) -> Report:
        """Bring the index up to date."""
        return self.index.update(self.root)

    def names(self) -> list[str]:
        """Return the names of the documents."""
        return [entry.path.name for entry in documents(self.connection)]

    def paths(self) -> set[str]:
        """Return the paths of the documents."""
        return {str(entry.path) for entry in documents(self.connection)}

    def found(self, query: str) -> list[str]:
        """Return the names of the notes that a search finds."""
        return [hit.passage.path.name for hit in search(self.connection, query)]

    def told(self, line: str, **counts: object) -> dict[str, Any]:
        """Print what was found, and return what goes into the line of JSON."""
        self.wrong += unsound(self.connection)
        self.connection.close()
        for each in self.wrong[:5]:
            print(f"wrong      {each}")
        print(f"measured   {line}: {len(self.wrong)} wrong", flush=True)
        return counts | {"wrong": len(self.wrong)}


def two_processes(folder: Path, chance: random.Random) -> dict[str, Any]:
    """Have two processes index the same archive at once, and a third embed it."""
    notes = Notes(folder / "notes", chance)
    archive = Archive(folder)
    archive.update()
    refused = 0
    for number in range(ROUNDS):
        notes.change(0.5)
        with (
            child(INDEXER, notes.root, archive.database, 0) as one,
            child(INDEXER, notes.root, archive.database, 2) as two,
            child(EMBEDDER, folder, "fake") as three,
        ):
            said = [process.communicate(timeout=PATIENCE_S)[0] for process in (one, two, three)]
        refused += said.count(b"")
        archive.expect(f"round {number}: one failed", holds=said == [b"done\n"] * 3)
        expected = undisturbed(notes.root, folder)
        archive.expect(f"round {number}: not what one makes", holds=contents(archive.connection) == expected)
    return archive.told(f"{ROUNDS} times two that index and one that embeds at once", rounds=ROUNDS, refused=refused)


@contextmanager
def disk(at: Path) -> Iterator[Callable[[], None]]:
    """Give ``at`` a disk of its own, and what takes it away; a folder that is moved aside where none can be mounted."""
    at.mkdir(parents=True)
    aside = at.with_name(f".{at.name} aside")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(at)], capture_output=True, check=False)

    def away() -> None:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", str(at)], check=True)
        else:
            at.rename(aside)
            at.mkdir()

    try:
        yield away
    finally:
        if os.path.ismount(at):
            away()
        shutil.rmtree(aside, ignore_errors=True)


def unmounted(folder: Path, chance: random.Random) -> dict[str, Any]:
    """Take a disk away while its notes are indexed; none may leave the index, and the report must name the disk."""
    archive = Archive(folder)
    kept = Notes(archive.root / "kept", chance, 20)  # beside the disks
    real = True
    for number in range(ROUNDS):
        place = archive.root / f"disk {number}"
        with disk(place) as away:
            real = real and os.path.ismount(place)
            notes = Notes(place / "in", chance, 40)
            archive.update()
            before = archive.paths()
            notes.change(0.8)
            there = before & set(map(str, place.rglob("*.md")))
            kept.change(0.2)
            with child(INDEXER, archive.root, archive.database, 2 * (number % 2)) as process:
                time.sleep(chance.uniform(0, 0.3))
                away()
                process.communicate(timeout=PATIENCE_S)
            report = archive.update()
            lost = there - archive.paths()
            asks = any(str(skip.path) == str(place) and "--forget" in skip.reason for skip in report.skipped)
            if real:  # a folder that was moved is a folder whose notes are gone
                archive.expect(f"round {number}: {len(lost)} notes of the disk are lost", holds=not lost)
                archive.expect(f"round {number}: the report does not ask", holds=asks)
        archive.index.forget(place)
    root = folder / "whole"
    with disk(root) as away:
        Notes(root / "in", chance, 20)
        archive.index.update(root)
        before_all = len(archive.names())
        away()
        try:
            archive.index.update(root)
            archive.expect("an empty root is indexed", holds=False)
        except NotesError as error:
            archive.expect(f"does not ask: {error}", holds="--forget" in str(error))
        archive.expect("notes of a root that is away are gone", holds=len(archive.names()) == before_all)
        archive.index.forget(root)
    return archive.told(f"{ROUNDS} disks and a root unmounted" + ("" if real else " (moved aside)"), rounds=ROUNDS + 1)


def clock_set_back(folder: Path, chance: random.Random) -> dict[str, Any]:
    """Index with a clock that is a year behind, and notes whose times lie in the past; every change must be seen."""
    notes = Notes(folder / "notes", chance)
    archive = Archive(folder)
    archive.update()
    for number in range(ROUNDS):
        notes.change(0.3)
        for path in notes.root.rglob("*.md"):
            if chance.random() < 0.3:
                size, state = path.stat().st_size, path.stat()
                path.write_text("я" * (size // 2) + "." * (size % 2), encoding="utf-8")  # as large as before
                os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns - chance.randrange(2) * YEAR_S * 10**9))
        with child(CLOCK_SET_BACK + INDEXER, notes.root, archive.database, 0) as process:
            process.communicate(timeout=PATIENCE_S)
        expected = undisturbed(notes.root, folder)
        archive.expect(f"round {number}: a change was missed", holds=contents(archive.connection) == expected)
    return archive.told(f"{ROUNDS} times indexed with the clock a year back", rounds=ROUNDS)


def case_only(folder: Path, chance: random.Random) -> dict[str, Any]:
    """Rename notes and folders in case only; they must be there under their new names, and once."""
    notes = Notes(folder / "notes", chance)
    archive = Archive(folder)
    archive.update()
    renamed = 0
    for number in range(ROUNDS):
        for path in sorted(notes.root.rglob("*")):
            if path.exists() and chance.random() < 0.4:
                path.rename(path.with_name(path.name.swapcase()))
                renamed += 1
        if number % 2:
            archive.update()
        else:
            archive.index.refresh(notes.root, [str(path) for path in notes.root.iterdir()])
            archive.update()
        expected = undisturbed(notes.root, folder)
        archive.expect(f"round {number}: other names than the files'", holds=contents(archive.connection) == expected)
    return archive.told(f"{renamed} files and folders renamed in case only", renamed=renamed)


def tiny_files(folder: Path, count: int) -> dict[str, Any]:
    """Index so many files of a line each, and look through them again."""
    archive = Archive(folder)
    for number in range(count):
        path = archive.root / f"{number // 1000}" / f"{number}.md"
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_text(f"заметка {number}\n", encoding="utf-8")
    time.sleep(2.1)  # files written within the last two seconds are read again by design
    with watched_memory() as memory:
        first, second = archive.update(), archive.update()
    archive.expect("not all are indexed", holds=first.added == count)
    archive.expect("some are read again", holds=(second.unchanged, second.changed) == (count, 0))
    archive.expect("one is not found", holds=f"{count - 1}.md" in archive.found(f"{count - 1}"))
    return archive.told(
        f"{count:,} tiny files, {first.seconds:.1f} s, again {second.seconds:.1f} s, peak {max(memory):.0f} MB",
        files=count,
        first_s=first.seconds,
        second_s=second.seconds,
        peak_mb=max(memory),
    )


def large_notes(folder: Path) -> dict[str, Any]:
    """Index a note of 50 MB, which is left out by name, and one of the largest size that is read."""
    archive = Archive(folder)
    archive.root.mkdir()
    line = "Насос теплицы проверяют каждый день, and the pump is checked every day. "
    (archive.root / "small.md").write_text("иголка\n", encoding="utf-8")
    (archive.root / "50 MB.md").write_text(line * (50_000_000 // len(line.encode())), encoding="utf-8")
    paragraphs = f"# Заголовок\n\n{line * 10}\n\n- {line}\n- {line}\n\n"
    largest = paragraphs * (MAX_FILE_BYTES // len(paragraphs.encode()))
    (archive.root / "largest.md").write_text(largest, encoding="utf-8")
    (archive.root / "one line.md").write_text(line * (MAX_FILE_BYTES // len(line.encode()) // 4), encoding="utf-8")
    report = archive.update()
    left_out = [skip for skip in report.skipped if skip.path.name == "50 MB.md" and "MiB" in skip.reason]
    archive.expect("the note of 50 MB is not left out by name", holds=len(left_out) == len(report.skipped) == 1)
    archive.expect("the others are not there", holds=archive.names() == ["largest.md", "one line.md", "small.md"])
    archive.expect("the small one is not found", holds=archive.found("иголки") == ["small.md"])
    return archive.told(
        f"a note of 50 MB left out, one of {len(largest.encode()) / 1e6:.0f} MB indexed in {report.seconds:.1f} s",
        seconds=report.seconds,
    )


def deep_tree(folder: Path) -> dict[str, Any]:
    """Index a tree deeper than recursion goes, and one deeper than a path can say, which is named and passed over."""
    archive = Archive(folder)
    archive.root.mkdir()
    (archive.root / "kept.md").write_text("лист\n", encoding="utf-8")
    here = os.open(".", os.O_RDONLY)
    deepest = 0
    try:
        os.chdir(archive.root)
        for depth in range(3000):
            Path("d").mkdir()
            os.chdir("d")
            if depth % 500 == 0:
                Path(f"{depth}.md").write_text(f"глубина {depth}\n", encoding="utf-8")
                deepest = depth
    finally:
        os.fchdir(here)
        os.close(here)
    try:
        report = archive.update()
        reached = sorted(int(name[:-3]) for name in archive.names() if name != "kept.md")
        archive.expect("what a path can say is not indexed", holds=reached[-1:] >= [1000] and reached[0] == 0)
        archive.expect(
            "what it cannot say is not named",
            holds=reached[-1] == deepest or any("cannot be listed" in skip.reason for skip in report.skipped),
        )
        archive.expect("search fails", holds="kept.md" in archive.found("лист"))
    finally:
        subprocess.run(["rm", "-rf", str(archive.root)], check=True)  # shutil.rmtree does recurse
    return archive.told(f"a tree 3,000 deep, notes found down to {reached[-1]}", reached=reached[-1])


def strange_names(folder: Path) -> dict[str, Any]:
    """Index notes whose names are no UTF-8, hold control characters or are as long as can be."""
    archive = Archive(folder)
    archive.root.mkdir()
    names = [
        *(b"\xff%d\xfe.md" % n for n in range(20)),
        "файл в cp1251.md".encode("cp1251"),
        b"new\nline.md",
        b"tab\t\x1b[31mred.md",
        b"quote\"'`$(x).md",
        b"-rf.md",
        b"%s%d.md",
        "\u202eright to left.md".encode(),
        "é.md".encode(),
        "e\u0301.md".encode(),
        b"x" * 252 + b".md",
    ]
    for number, name in enumerate(names):
        path = archive.root / os.fsdecode(b"\xf0folder" if number % 2 else b".") / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"слово{number}\n", encoding="utf-8")
    report = archive.update()
    archive.expect("some are left out", holds=report.added == len(names) and not report.skipped)
    for number, name in enumerate(names):
        archive.expect(f"{name!r} is not found", holds=archive.found(f"слово{number}")[:1] == [os.fsdecode(name)])
    again = archive.update()
    archive.expect("names are not stable", holds=(again.added, again.removed) == (0, 0))
    for hit in search(archive.connection, "слово1"):
        hit.passage.place.encode()  # a title is text whatever the name
    return archive.told(f"{len(names)} strange names", names=len(names))


def main() -> int:
    """Run the faults and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--tiny", type=int, default=100_000, help="tiny files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", metavar="NAME")
    given = parser.parse_args()
    chance = random.Random(given.seed)
    faults: dict[str, Callable[[Path], dict[str, Any]]] = {
        "killed_indexing": lambda at: kill_indexing(at, given.kills, chance),
        "killed_embedding": lambda at: kill_embedding(at, given.kills, chance),
        "killed_switching": lambda at: kill_switching(at, given.kills, chance),
        "two_processes": lambda at: two_processes(at, chance),
        "unmounted": lambda at: unmounted(at, chance),
        "clock_set_back": lambda at: clock_set_back(at, chance),
        "case_only": lambda at: case_only(at, chance),
        "strange_names": strange_names,
        "deep_tree": deep_tree,
        "large_notes": large_notes,
        "tiny_files": lambda at: tiny_files(at, given.tiny),
    }
    print("predicted  nothing is lost, torn or answered that is in no file; the next run completes all", flush=True)
    began = time.monotonic()
    found = {}
    with tempfile.TemporaryDirectory(prefix="quietmind-faults-") as folder:
        for name, fault in faults.items():
            if not given.only or name in given.only:
                (Path(folder) / name).mkdir()
                found[name] = fault(Path(folder) / name)
    wrong = sum(int(each["wrong"]) for each in found.values())
    print(json.dumps({"benchmark": "archive_faults"} | found | {"wrong": wrong, "seconds": time.monotonic() - began}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
