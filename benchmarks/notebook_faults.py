"""Does to stored notebooks what should never happen, and looks whether anything wrong is ever used.

    python benchmarks/notebook_faults.py [--model tiny] [--text DIR] [--kills 50]

Kills `quietmind read` and a bare writer at random moments, flips bits, fills the disk, swaps in another model's
snapshot. Each time, what the store lists must be whole and what was written; reading again must mend the rest. The
last line printed is JSON; ``wrong`` counts what was used and should not have been.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from quietmind.base.errors import SnapshotDamaged, SnapshotError, SnapshotForeign
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.store import Store

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "archive"
OURS = Fingerprint("weights", "tokenizer", "template", "rope", "f16", "engine")
BLOB, TOKENS = 24 << 20, 4096
SMALL_DISK = 8 << 20
NOTEBOOK = "hardware"

WRITER = """
import sys
from pathlib import Path
from notebook_faults import OURS, store_blob
round_ = int(sys.argv[2])
print("ready", flush=True)
for number in range(1000):
    store_blob(Path(sys.argv[1]), 1000 * round_ + number)
"""

FILLER = """
import resource, signal, sys
from pathlib import Path
from quietmind.base.errors import DiskFull, SnapshotError
from notebook_faults import store_blob
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    store_blob(Path(sys.argv[1]), 1)
except (DiskFull, SnapshotError) as error:
    print(f"{type(error).__name__}: {error}")
"""


def blob(number: int) -> bytes:
    """Return bytes as a cache has them, half of which can be packed; each number gives others."""
    chance = random.Random(number)
    return b"".join(chance.randbytes(1 << 19) + bytes(1 << 19) for _ in range(BLOB >> 20))


def tokens_of(number: int) -> list[int]:
    """Return the tokens that go with :func:`blob`."""
    return [number, *range(TOKENS - 1)]


def store_blob(folder: Path, number: int) -> None:
    """Store one snapshot from a file outside the store."""
    with tempfile.TemporaryDirectory() as elsewhere:
        source = Path(elsewhere) / "cache"
        source.write_bytes(blob(number))
        Store(folder).save(source, OURS, tokens_of(number), label=str(number), seconds=1.0, cut=True)


def kill_writers(folder: Path, kills: int, chance: random.Random) -> dict[str, int]:
    """Kill a process that stores one snapshot after the other; what is listed afterwards must be what was written."""
    wrong = partials = 0
    store = Store(folder)
    for round_ in range(kills):
        words = [sys.executable, "-c", WRITER, str(folder), str(round_)]
        child = subprocess.Popen(words, cwd=Path(__file__).parent, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(chance.uniform(0.0, 1.2))
        child.kill()
        child.communicate()
        partials += len(list(folder.glob(".*.partial")))
        for snapshot in store.snapshots():
            wrong += not _is_as_written(store, snapshot.path, folder / "out")
            store.remove(snapshot)
    store_blob(folder, 10**6)
    left = len(list(folder.glob(".*.partial")))
    print(f"measured   {kills} writers killed: {partials} files half written, {left} left, {wrong} wrong", flush=True)
    return {"kills": kills, "half_written": partials, "left": left, "wrong": wrong}


def _is_as_written(store: Store, path: Path, out: Path) -> bool:
    """Say whether what a snapshot gives is what was stored, or is refused. ``out`` is overwritten."""
    snapshot = next((each for each in store.snapshots() if each.path == path), None)
    if snapshot is None:
        return True
    try:
        store.restore(snapshot, OURS, out)
    except (SnapshotDamaged, SnapshotForeign):
        return True
    return out.read_bytes() == blob(int(snapshot.header.label))


def flip_bits(folder: Path, rounds: int, chance: random.Random) -> dict[str, int]:
    """Flip one bit of a stored file, anywhere; it must be refused, or give what was stored."""
    store_blob(folder, 7)
    (path,) = (each.path for each in Store(folder).snapshots())
    whole = path.read_bytes()
    wrong = refused = 0
    for _ in range(rounds):
        damaged = bytearray(whole)
        # Half of them where the header and the tokens stand.
        at = chance.randrange(min(len(whole), 20_000) if chance.random() < 0.5 else len(whole))
        damaged[at] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        store = Store(folder)
        found = store.find(OURS, tokens_of(7))
        if found is None:
            refused += 1
            continue
        try:
            store.restore(found.snapshot, OURS, folder / "out")
            wrong += (folder / "out").read_bytes() != blob(7)
        except (SnapshotDamaged, SnapshotForeign):
            refused += 1
    print(f"measured   {rounds} bits flipped: {refused} refused, {wrong} wrong", flush=True)
    return {"flips": rounds, "refused": refused, "wrong": wrong}


def fill_disk(folder: Path) -> dict[str, Any]:
    """Store on a disk that is too small: a tmpfs where one can be mounted, and a limit on file sizes."""
    said = {}
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        if mounted.returncode == 0:
            said["tmpfs"] = _filled(folder)
        else:
            said["file size limit"] = _filled(folder, str(SMALL_DISK))
        store = Store(folder)
        left = [path.name for path in folder.iterdir() if path.suffix in (".partial", ".snapshot")]
        wrong = len(store.snapshots()) + len(left)
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", str(folder)], check=True)
    print(f"measured   a full disk: {said}, {wrong} wrong", flush=True)
    return {"said": said, "wrong": wrong}


def _filled(*given: str | Path) -> str:
    words = [sys.executable, "-c", FILLER, *map(str, given)]
    done = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, encoding="utf-8", check=False)
    return (done.stdout or done.stderr).strip()


def swap_in_foreign(folder: Path) -> dict[str, int]:
    """Put another model's snapshot where ours was, by name too; it must be refused."""
    store_blob(folder, 7)
    store = Store(folder)
    (ours,) = store.snapshots()
    theirs = replace(OURS, weights="another")
    with store.scratch() as scratch:
        (scratch / "cache").write_bytes(blob(8))
        other = store.save(scratch / "cache", theirs, tokens_of(7), label="7", seconds=1.0, cut=True)
    shutil.move(other.path, ours.path)
    wrong = int(store.find(OURS, tokens_of(7)) is not None)
    try:
        store.restore(ours, OURS, folder / "out")
        wrong += 1
    except SnapshotForeign as error:
        print(f"measured   a foreign snapshot: {error}", flush=True)
    return {"wrong": wrong}


def kill_readers(model: str, text: Path, folder: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    """Kill `quietmind read` and its engine at random moments; what is listed must be whole, and the end be reached."""
    environment = os.environ | {"QUIETMIND_WORKSPACE": str(folder)}

    def quietmind(*words: str) -> str:
        run = [sys.executable, "-m", "quietmind", *words]
        return subprocess.run(run, env=environment, capture_output=True, encoding="utf-8", check=True).stdout

    quietmind("index", str(text))
    source = text / NOTEBOOK if (text / NOTEBOOK).is_dir() else text
    quietmind("notebook", "make", "killed", "--from", str(source))
    words = ("read", "killed", "--model", model, "--context", "2k", "--json")
    began = time.monotonic()
    quietmind(*words)
    lasting = time.monotonic() - began
    store = Store(folder / "snapshots")
    kept = damaged = 0
    for _ in range(kills):
        for snapshot in store.snapshots():
            store.remove(snapshot)
        child = subprocess.Popen(
            [sys.executable, "-m", "quietmind", *words],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(chance.uniform(0.0, lasting))
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for snapshot in store.snapshots():
            kept += 1
            try:
                store.check(snapshot)
            except SnapshotError:
                damaged += 1
    last = json.loads(quietmind(*words))
    mended = not last["left"] and json.loads(quietmind("notebook", "list", "--json"))["notebooks"][0]["due"] is None
    left = len(list((folder / "snapshots").glob(".*")))
    print(
        f"measured   {kills} readings killed: {kept} snapshots stored, {damaged} damaged; read again: {mended}, "
        f"{left} scratch files left",
        flush=True,
    )
    return {"kills": kills, "stored": kept, "wrong": damaged + (not mended), "left": left}


def all_faults(model: str, text: Path, folder: Path, kills: int) -> dict[str, Any]:
    """Run every fault; each in a folder of its own below ``folder``."""
    print("predicted  nothing wrong is used, and reading again mends all", flush=True)
    chance = random.Random(0)
    faults: dict[str, Callable[[Path], dict[str, Any]]] = {
        "flipped_bits": lambda at: flip_bits(at, kills, chance),
        "full_disk": fill_disk,
        "foreign": swap_in_foreign,
        "killed_writers": lambda at: kill_writers(at, kills, chance),
        "killed_readers": lambda at: kill_readers(model, text, at, kills, chance),
    }
    found = {name: fault(folder / name) for name, fault in faults.items()}
    return found | {"wrong": sum(int(each["wrong"]) for each in found.values())}


def main() -> int:
    """Print what was found, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--text", type=Path, default=EXAMPLES)
    parser.add_argument("--kills", type=int, default=50)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = all_faults(given.model, given.text, Path(folder), given.kills)
    print(json.dumps(found))
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
