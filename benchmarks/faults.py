"""Does things to a real engine that should never happen, a hundred times, and looks at what is left.

    python benchmarks/faults.py [--rounds 100] [--seed 0]

Each round asks a supervised engine with the small real model for an answer, and at a random moment kills its process
(SIGKILL), stops it (SIGSTOP), starves it of memory (a limit on what it may still take), or swaps the model file for a
truncated one and kills it. It must then have answered, or said one clear line and answered the next question; for the
truncated file it must give up with a line that says so. In the end there may be no process, no listening port and no
open file more than before. Prints a line for each kind of fault and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from quietmind.base.errors import EngineError
from quietmind.engine.llamacpp import LlamaCpp, LlamaCppOptions
from quietmind.engine.port import Delta, Engine, Finished, Request
from quietmind.model.locate import locate
from quietmind.workspace.supervise import Attempt, Pause, Supervised

SILENCE_S = 3.0  # after so long a stopped engine counts as hung
PROMPT = "The tank of the test bench holds water. " * 40
QUICK = Pause(back_off=(0.05,), watch_every=0.2, recovered_after=0.0)


@dataclass(frozen=True)
class Small:
    """The small model, with settings under which every fault shows within seconds."""

    options: LlamaCppOptions
    logs: Path
    pages: bool = False
    weight_bytes: int = 0

    @property
    def log(self) -> Path:
        """Where the engine prints."""
        return self.logs / "llamacpp.log"

    def start(self) -> Engine:
        """Start the engine."""
        return LlamaCpp.start(self.options, self.logs)

    def smaller(self, _error: EngineError) -> tuple[Attempt, str] | None:
        """Return the same again."""
        return self, "the same settings"  # the limit that starved it is gone with its process

    def decode_at_least(self, _depth: int) -> float | None:
        """Return nothing: this is not about speed."""
        return None


@dataclass
class Seen:
    """What became of the rounds of one kind of fault."""

    rounds: int = 0
    answered: int = 0
    said: Counter[str] = field(default_factory=Counter)
    unclear: list[str] = field(default_factory=list)
    lost: int = 0


def ask(engine: Engine, tokens: int = 48) -> str:
    """Return an answer; raises EngineError. An end without a Finished counts as lost."""
    text, finished = [], False
    for event in engine.generate(Request(PROMPT, max_tokens=tokens)):
        if isinstance(event, Finished):
            finished = True
        elif isinstance(event, Delta):
            text.append(event.text)
    if not finished:
        raise AssertionError("the generation ended without a word")
    return "".join(text)


def kill(pid: int) -> None:
    """End the process at once."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def stop(pid: int) -> None:
    """Stop every process of the tree: it lives, and does nothing any more."""
    for process in tree(pid):
        with suppress(psutil.Error):
            process.suspend()


def starve(pid: int) -> None:
    """Let the processes take no more memory than they have."""
    for process in tree(pid):
        with suppress(psutil.Error):
            taken = process.memory_info().vms
            process.rlimit(resource.RLIMIT_AS, (taken, taken))


def tree(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


FAULTS: dict[str, Callable[[int], None]] = {"kill": kill, "stop": stop, "starve": starve, "corrupt": kill}


def one_round(kind: str, supervised: Supervised, seen: Seen, chance: random.Random, model: Path, whole: Path) -> None:
    """Ask, break something at a random moment, and ask again."""
    seen.rounds += 1
    if kind == "corrupt":
        model.unlink()
        model.write_bytes(whole.read_bytes()[: chance.randrange(1, whole.stat().st_size)])
    fault = None
    try:
        pid: int = getattr(supervised.engine, "pid")  # noqa: B009 - only our own children have one
        fault = threading.Timer(chance.uniform(0.0, 1.5), FAULTS[kind], (pid,))
        fault.start()
        ask(supervised)
        seen.answered += 1
    except EngineError as error:
        note(seen, error)
    except AssertionError:
        seen.lost += 1
    if fault is not None:
        fault.join()
    if kind == "corrupt":
        return
    try:
        ask(supervised, tokens=4)
        seen.answered += 1
    except EngineError as error:
        # A fault that fell between the two questions is met by this one; the one after it must be answered.
        note(seen, error)
        ask(supervised, tokens=4)
        seen.answered += 1


def note(seen: Seen, error: EngineError) -> None:
    """Count an error, and whether it is one clear line: what was used, what happened, what to do."""
    line = str(error)
    seen.said[type(error).__name__] += 1
    if "\n" in line or ";" not in line or "Traceback" in line:
        seen.unclear.append(line)


def started(model: Path, logs: Path, told: list[str]) -> Supervised:
    """Start the small model under supervision."""
    options = LlamaCppOptions(model, context=1024, threads=1, batch=64, micro_batch=64, silence_timeout_s=SILENCE_S)
    return Supervised(Small(options, logs), told.append, QUICK)


def left_behind(before: set[int]) -> list[int]:
    """Return our descendants that are still there, after a moment of grace."""
    deadline = time.monotonic() + 5
    while (left := {p.pid for p in psutil.Process().children(recursive=True)} - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    return sorted(left)


def listening() -> int:
    """Return how many sockets on this machine listen."""
    return sum(connection.status == psutil.CONN_LISTEN for connection in psutil.net_connections("inet"))


def open_files() -> int:
    """Return how many descriptors this process holds."""
    return int(psutil.Process().num_fds())


def main() -> int:
    """Run the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    whole = locate("tiny")
    seen = {kind: Seen() for kind in FAULTS}
    told: list[str] = []
    print(f"predicted: {given.rounds} faults, each answered or said in one line; nothing left behind\n")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        model, logs = Path(folder) / "model.gguf", Path(folder)
        shutil.copy(whole, model)
        with started(model, logs, told) as warm:  # everything that is opened once is open now
            ask(warm, tokens=2)
        before = {process.pid for process in psutil.Process().children(recursive=True)}
        ports, files = listening(), open_files()
        supervised = started(model, logs, told)
        for number in range(given.rounds):
            kind = list(FAULTS)[number % len(FAULTS)]
            one_round(kind, supervised, seen[kind], chance, model, whole)
            if kind == "corrupt":
                supervised.stop()
                shutil.copy(whole, model)
                supervised = started(model, logs, told)
            print(f"\r{number + 1} of {given.rounds}", end="", file=sys.stderr, flush=True)
        supervised.stop()
        orphans, more_ports, more_files = left_behind(before), listening() - ports, open_files() - files
    print(f"\r{'fault':<9}{'rounds':>7}{'answered':>10}{'lost':>6}  errors")
    for kind, one in seen.items():
        errors = ", ".join(f"{name} {count}" for name, count in sorted(one.said.items())) or "none"
        print(f"{kind:<9}{one.rounds:>7}{one.answered:>10}{one.lost:>6}  {errors}")
    unclear = [line for one in seen.values() for line in one.unclear]
    for line in unclear:
        print(f"unclear: {line}")
    lost = sum(one.lost for one in seen.values())
    print(
        f"\norphans {len(orphans)}, ports left {more_ports}, descriptors left {more_files}, "
        f"{len(told)} lines told, {time.monotonic() - began:.0f} s\n"
    )
    print(
        json.dumps(
            {
                "rounds": given.rounds,
                "recovered": sum(one.answered for kind, one in seen.items() if kind != "corrupt"),
                "lost": lost,
                "unclear": len(unclear),
                "orphans": len(orphans),
                "ports_left": more_ports,
                "descriptors_left": more_files,
            }
        )
    )
    return 1 if orphans or unclear or lost or more_ports > 0 or more_files > 0 else 0


if __name__ == "__main__":
    sys.exit(main())
