"""Holds `quietmind machine --measure` against second, independent methods.

    python benchmarks/machine_bandwidth.py [--rounds 5]

Memory: memcmp by ctypes in Python's threads, against a C program that sums 64-bit words in POSIX threads (needs `cc`).
Disk: reads through the system's cache with its pages dropped, against `dd` with O_DIRECT, which goes past the cache.
The methods take turns, so that other work on the machine touches both alike. Prints what was predicted, then each
round, then one JSON line: medians and bests in GB/s, and our method divided by the other.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from quietmind.base.units import GIB, MIB
from quietmind.machine.measure_disk import disk_read_rate
from quietmind.machine.measure_ram import last_level_cache_bytes, read_ram
from quietmind.machine.probe import hardware

SUM = r"""
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static size_t words;
static pthread_barrier_t begin;
static double rates[8][1024];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void *work(void *argument) {
    size_t index = (size_t)argument;
    uint64_t *buffer = mmap(0, words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED) exit(1);
    madvise(buffer, words * 8, MADV_HUGEPAGE);
    for (size_t i = 0; i < words; i++) buffer[i] = i;
    uint64_t total = 0;
    for (int window = 0; window < 8; window++) {
        pthread_barrier_wait(&begin);
        double began = now(), elapsed = 0, done = 0;
        while (elapsed < 0.25) {
            for (size_t i = 0; i < words; i++) total += buffer[i];
            done += words * 8.0;
            elapsed = now() - began;
        }
        rates[window][index] = done / elapsed;
    }
    return (void *)total;
}

int main(int count, char **arguments) {
    size_t threads = strtoul(arguments[1], 0, 10);
    words = strtoull(arguments[2], 0, 10) / threads / 8;
    pthread_t workers[1024];
    pthread_barrier_init(&begin, 0, threads);
    for (size_t i = 0; i < threads; i++) pthread_create(&workers[i], 0, work, (void *)i);
    void *total = 0, *all = 0;
    for (size_t i = 0; i < threads; i++) {
        pthread_join(workers[i], &total);
        all = (char *)all + (size_t)total;
    }
    double best = 0;
    for (int window = 0; window < 8; window++) {
        double sum = 0;
        for (size_t i = 0; i < threads; i++) sum += rates[window][i];
        if (sum > best) best = sum;
    }
    printf("%.0f %p\n", best, all); /* the sum is printed so that no compiler leaves it out */
    return 0;
}
"""


def compiled(folder: Path) -> Path | None:
    """Return the C program, or None without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    program = folder / "sum"
    command = [compiler, "-O3", "-march=native", "-pthread", "-x", "c", "-o", str(program), "-"]
    subprocess.run(command, input=SUM.encode(), check=True)
    return program


def c_rate(program: Path, threads: int, size: int) -> float:
    """Return the bytes a second that the C program reads."""
    done = subprocess.run([str(program), str(threads), str(size)], capture_output=True, check=True)
    return float(done.stdout.split()[0])


def dd_rate(folder: Path) -> float | None:
    """Return the bytes a second that dd reads past the cache; None where it cannot."""
    file = folder / "direct"
    with file.open("wb") as stream:
        block = os.urandom(8 * MIB)
        for _ in range(GIB // len(block)):
            stream.write(block)
        os.fsync(stream.fileno())
    try:
        command = ["dd", f"if={file}", "of=/dev/null", "bs=8M", "iflag=direct"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"}, check=False)
    except OSError:
        return None
    finally:
        file.unlink()
    said = re.search(r"(\d+) bytes.*, ([\d.e-]+) s,", done.stderr)
    return int(said[1]) / float(said[2]) if done.returncode == 0 and said else None


def main() -> None:
    """Run both methods in turn and print how they compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    machine = hardware()
    threads = machine.host.usable_cores or 1
    size = max(GIB, 4 * last_level_cache_bytes())
    print("predicted: memory by both methods within 15%; the disk through the cache at 0.5 to 1.5 of dd's rate, for")
    print("  read-ahead keeps fewer reads in flight than the disk could take, and dd waits for each of its blocks")
    rates: dict[str, list[tuple[float, float]]] = {"memory": [], "disk": []}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        program = compiled(Path(name))
        for number in range(1, rounds + 1):
            read = read_ram(threads)
            pairs = {
                "memory": (read.bytes_per_s if read else None, c_rate(program, threads, size) if program else None),
                "disk": (disk_read_rate(name), dd_rate(Path(name))),
            }
            if read is not None:
                print(f"  round {number}: our threads had the processor {read.cpu_share:.0%} of the time")
            for what, (own, other) in pairs.items():
                print(f"  round {number}, {what}: ours {shown(own)}, the other {shown(other)} GB/s")
                if own is not None and other is not None:
                    rates[what].append((own, other))
    result: dict[str, object] = {"cpu": machine.host.cpu, "threads": threads, "rounds": rounds}
    for what, found in rates.items():
        if found:
            result[what] = compared(found)
    print(json.dumps(result))


def compared(rates: list[tuple[float, float]]) -> dict[str, float]:
    """Return the medians and the best of both methods in GB/s, and ours divided by the other's."""
    ours, theirs = ([pair[side] / 1e9 for pair in rates] for side in (0, 1))
    return {
        "ours": round(statistics.median(ours), 2),
        "other": round(statistics.median(theirs), 2),
        "ratio": round(statistics.median(own / other for own, other in rates), 3),
        "best_ours": round(max(ours), 2),
        "best_other": round(max(theirs), 2),
        "best_ratio": round(max(ours) / max(theirs), 3),
    }


def shown(rate: float | None) -> str:
    """Return GB/s, or a dash."""
    return "-" if rate is None else f"{rate / 1e9:.2f}"


if __name__ == "__main__":
    main()
