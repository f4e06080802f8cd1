"""How fast the engine decodes when other programs want the processor too, by how long its threads spin when they wait.

    python benchmarks/busy_cores.py

llama.cpp's threads meet at a barrier several times a layer. One that spins there keeps the core that the other, put
aside by the system, is waiting for. GOMP_SPINCOUNT bounds the spinning. The last line is JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack

from quietmind.engine.llamacpp import LlamaCpp, LlamaCppOptions
from quietmind.engine.port import Finished, Request
from quietmind.model.locate import locate

SPIN_COUNTS = (None, 100_000, 10_000, 3_000, 1_000, 0)
ROUNDS = 3


def decode_rate(spin_count: int | None) -> float:
    """Return tokens decoded a second by a fresh engine; None leaves libgomp's own choice."""
    os.environ.pop("GOMP_SPINCOUNT", None)
    if spin_count is not None:
        os.environ["GOMP_SPINCOUNT"] = str(spin_count)
    with LlamaCpp.start(LlamaCppOptions(locate("tiny"), context=1024, threads=os.cpu_count())) as engine:
        *_, last = engine.generate(Request("Once upon a time", max_tokens=48))
    assert isinstance(last, Finished)
    return last.timings.decode_per_second


def main() -> None:
    """Print the rates, idle and beside as many busy processes as there are cores."""
    print(
        "predicted: idle, no spinning costs half the speed of a tiny model; beside busy processes, spinning costs 9/10"
    )
    rates: dict[str, dict[str, float]] = {}
    for name, busy in (("idle", 0), ("busy", os.cpu_count() or 1)):
        with ExitStack() as stack:
            for _ in range(busy):
                spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                stack.callback(spinner.wait)
                stack.callback(spinner.kill)
            measured: dict[str, list[float]] = {str(count): [] for count in SPIN_COUNTS}
            for _ in range(ROUNDS):  # in turn, so that a change of the machine's speed touches all alike
                for count in SPIN_COUNTS:
                    measured[str(count)].append(decode_rate(count))
        rates[name] = {shown: round(sorted(found)[len(found) // 2], 1) for shown, found in measured.items()}
        for shown, rate in rates[name].items():
            print(f"  {name}: spin count {shown:>6}: {rate:6.1f} tokens/s (median of {ROUNDS})")
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
