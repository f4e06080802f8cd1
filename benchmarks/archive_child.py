"""A process of its own for each thing measured, so that its memory is its own and its failure stays its own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


class ChildFailed(Exception):
    """The process ended without a result; its last words."""


def run(script: str, name: str, task: Mapping[str, Any], folder: Path, seconds: float) -> dict[str, Any]:
    """Return what ``script`` beside this file says to ``task`` as ``name``; ``folder`` holds both while it runs.

    Raises ChildFailed, also for one that takes longer than ``seconds``.
    """
    asked, said = folder / f"{name}.task.json", folder / f"{name}.result.json"
    asked.write_text(json.dumps(task), encoding="utf-8")
    command = [sys.executable, str(HERE / script), name, str(asked), str(said)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise ChildFailed(f"did not end within {seconds:.0f} s") from error
    if done.returncode or not said.exists():
        words = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}, no words"]
        raise ChildFailed(words[0][:200])
    result: dict[str, Any] = json.loads(said.read_text(encoding="utf-8"))
    return result


def main(work: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]) -> None:
    """Be the process: do the work that the command line names, and write its result with the peak of memory."""
    name, asked, said = sys.argv[1:]
    result = work[name](json.loads(Path(asked).read_text(encoding="utf-8")))
    Path(said).write_text(json.dumps({"peak_mb": round(peak_mb(), 1)} | result), encoding="utf-8")


def peak_mb() -> float:
    """Return the most memory that this process, or one that it waited for, has held, in 10**6 bytes.

    The system's own account of a process counts, on Linux, what its parent held when it was started; VmHWM does not.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")]
        own = int(line.split()[1]) * 1024
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit) / 1e6


def timed_answers(
    search: Callable[[str], Sequence[str]], queries: Sequence[str], seconds: float
) -> tuple[list[list[str]], list[float]]:
    """Return the pages found for each query, best first and each once, and the milliseconds that each took.

    Ends after ``seconds``: there are fewer answers than queries then.
    """
    found: list[list[str]] = []
    took: list[float] = []
    until = time.monotonic() + seconds
    for query in queries:
        if time.monotonic() > until:
            break
        began = time.perf_counter()
        pages = search(query)
        took.append(1000 * (time.perf_counter() - began))
        found.append(list(dict.fromkeys(pages)))
    return found, took


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return the value that ``share`` of ``values`` do not exceed; None where there are none."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)] if values else None


def page_files(pages: Path) -> list[str]:
    """Return the paths of the pages below the folder, relative to it, in their order."""
    return sorted(
        os.path.relpath(Path(folder) / name, pages)
        for folder, _, names in os.walk(pages)
        for name in names
        if name.endswith(".md")
    )
