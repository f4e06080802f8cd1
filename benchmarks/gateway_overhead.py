"""What the gateway of `quietmind up` costs: first token, tokens a second and cancelling, against its engine directly.

    python benchmarks/gateway_overhead.py [MODEL.gguf] [--rounds 40] [--tokens 64]

A second process runs the engine and the gateway before it. Both are asked in turns with a bare socket, who goes first
alternates, and each pair gives one difference; printed are medians with intervals of 95% by bootstrap, and what the
gateway's process worked, which other programs change little. Cancelling is
timed from the moment a client closes its connection to the moment the engine, which has one slot, shows the first
token of another request, less what such a request takes on an idle engine. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from quietmind.base.errors import EngineError
from quietmind.base.paths import models_folder
from quietmind.engine.llamacpp import LlamaCpp, LlamaCppOptions
from quietmind.engine.port import Engine

# A request more through h11 and httpx2, in Python: 2 to 4 ms on a slow core; a piece of stream some 0.2 ms, at the same
# time as the engine makes the next token.
PREDICTED_FIRST_TOKEN_MS = 4.0
PREDICTED_DECODE_LOSS = 0.01
PREDICTED_CANCEL_MS = 50.0

PROMPT = (
    "Once upon a time a lighthouse keeper looked at the sea and thought about the long winter that was coming. " * 4
)


@dataclass(frozen=True)
class Address:
    """Where to ask, and with what."""

    url: str
    key: str
    model: str
    socket_path: str | None = None

    def connect(self) -> socket.socket:
        """Return a new connection."""
        if self.socket_path is not None:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(self.socket_path)
            return connection
        parts = urlsplit(self.url)
        return socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 80))


@dataclass(frozen=True)
class Run:
    """Milliseconds to the first token, and tokens a second after it."""

    first_ms: float
    per_second: float


def ask(address: Address, tokens: int, connection: socket.socket) -> Iterator[float]:
    """Yield the moment at which each piece of text arrives."""
    body = json.dumps(
        {
            "model": address.model,
            "prompt": PROMPT,
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "ignore_eos": True,
        }
    ).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {address.key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    with connection.makefile("rb") as lines:
        status = lines.readline()
        if b" 200 " not in status:
            raise SystemExit(f"{address.url} answered {status!r}")
        for line in lines:
            if line.startswith(b"data: [DONE]"):
                return
            if line.startswith(b"data: ") and b'"text":"' in line and b'"finish_reason":null' in line:
                yield time.perf_counter()


def timed(address: Address, tokens: int) -> Run:
    """Generate to the end."""
    began = time.perf_counter()
    with closing(address.connect()) as connection:
        arrivals = list(ask(address, tokens, connection))
    return Run(1000 * (arrivals[0] - began), (len(arrivals) - 1) / (arrivals[-1] - arrivals[0]))


def freed_after(cancelled: Address, engine: Address) -> float:
    """Cancel a generation in its middle; return the ms until the engine shows the first token of another."""
    with closing(cancelled.connect()) as connection:
        for number, _ in enumerate(ask(cancelled, 1000, connection)):
            if number == 4:
                break
    return timed(engine, 2).first_ms


def median_and_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median and the 95% interval of it, by bootstrap."""
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(2000))
    return statistics.median(values), medians[49], medians[1949]


def serve(model: Path) -> None:
    """Run the engine and the gateway until standard input ends, after one JSON line that says where."""
    from quietmind.serve import listen
    from quietmind.serve.gateway import Gateway
    from quietmind.serve.guard import Guard
    from quietmind.serve.lane import Lane
    from quietmind.workspace.supervise import Attempt, Supervised

    class Here:
        """The model, started as it stands."""

        log = None
        pages = False
        weight_bytes = 0

        def start(self) -> Engine:
            return LlamaCpp.start(LlamaCppOptions(model, context=2048))

        def smaller(self, _error: EngineError) -> tuple[Attempt, str] | None:
            return None

        def decode_at_least(self, _depth: int) -> float | None:
            return None

    with Supervised(Here()) as supervised, listen.bind(port=0) as listener:
        endpoint = supervised.engine.endpoint
        assert endpoint is not None
        path = str(endpoint.socket) if endpoint.socket else None
        where = {"url": listen.url_of(listener), "engine": [endpoint.url, endpoint.key, endpoint.model, path]}

        def end_with_parent() -> None:
            sys.stdin.read()
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=end_with_parent, daemon=True).start()
        try:
            lane = Lane(endpoint.model, supervised)
            listen.serve(Gateway([lane], Guard()), listener, lambda: print(json.dumps(where), flush=True))
        except KeyboardInterrupt:
            return


@dataclass(frozen=True)
class Measured:
    """Differences of pairs, the gateway's less the engine's, and what the engine took directly.

    ``processor_ms`` is what the gateway's process worked for a request of one token and for each token more.
    """

    direct: list[Run]
    first_ms: list[float]
    decode_loss: list[float]
    cancel_ms: list[float]
    cancel_directly_ms: list[float]
    processor_ms: tuple[float, float]


def measure(gateway: Address, engine: Address, process: psutil.Process, rounds: int, tokens: int) -> Measured:
    """Ask both in turns."""
    timed(gateway, tokens)  # fills the prompt cache, so that the first token waits for one token of prefill
    direct, first, loss, cancels, cancels_directly = list[Run](), list[float](), list[float](), list[float](), []
    work: dict[int, list[float]] = {2: [], tokens: []}
    for number in range(rounds):
        pair = {}
        for address in (gateway, engine) if number % 2 else (engine, gateway):
            before = processor_ms(process)
            pair[address] = timed(address, tokens)
            if address is gateway:
                work[tokens].append(processor_ms(process) - before)
        direct.append(pair[engine])
        first.append(pair[gateway].first_ms - pair[engine].first_ms)
        loss.append(1 - pair[gateway].per_second / pair[engine].per_second)
        before = processor_ms(process)
        timed(gateway, 2)
        work[2].append(processor_ms(process) - before)
        idle = timed(engine, 2).first_ms
        cancels.append(freed_after(gateway, engine) - idle)
        cancels_directly.append(freed_after(engine, engine) - idle)
    short, long = statistics.mean(work[2]), statistics.mean(work[tokens])
    a_token = (long - short) / (tokens - 2)
    return Measured(direct, first, loss, cancels, cancels_directly, (short - a_token, a_token))


def processor_ms(process: psutil.Process) -> float:
    """Return the milliseconds that a process has worked; its children are not counted."""
    times = process.cpu_times()
    return 1000 * float(times.user + times.system)


def main() -> None:
    """Print the prediction, the measurement, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=models_folder() / "SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.model)
        return

    print(
        f"predicted: first token at most {PREDICTED_FIRST_TOKEN_MS:.0f} ms later, decoding at most "
        f"{PREDICTED_DECODE_LOSS:.0%} slower, cancelled within {PREDICTED_CANCEL_MS:.0f} ms"
    )
    words = [sys.executable, __file__, str(arguments.model), "--serve"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as server:
        assert server.stdout is not None
        where = json.loads(server.stdout.readline())
        engine = Address(*where["engine"])
        gateway = Address(where["url"], "", engine.model)
        found = measure(gateway, engine, psutil.Process(server.pid), arguments.rounds, arguments.tokens)
        assert server.stdin is not None
        server.stdin.close()

    intervals = {
        "first_token_overhead_ms": found.first_ms,
        "decode_loss": found.decode_loss,
        "cancel_ms": found.cancel_ms,
        "cancel_directly_ms": found.cancel_directly_ms,
    }
    shown = {name: [round(value, 4) for value in median_and_interval(values)] for name, values in intervals.items()}
    for name, (middle, low, high) in shown.items():
        print(f"{name}: {middle:.4g} ({low:.4g} to {high:.4g})")
    request, token = found.processor_ms
    print(f"the gateway works {request:.2f} ms for a request and {token:.3f} ms for a token of its stream")
    result = {
        "benchmark": "gateway_overhead",
        "model": arguments.model.name,
        "rounds": arguments.rounds,
        "tokens": arguments.tokens,
        "direct": {
            "first_token_ms": round(statistics.median(run.first_ms for run in found.direct), 2),
            "tokens_per_second": round(statistics.median(run.per_second for run in found.direct), 2),
        },
        **shown,
        "cancel_ms_most": round(max(found.cancel_ms), 1),
        "processor_ms": {"request": round(request, 3), "token": round(token, 4)},
        "predicted": {
            "first_token_ms": PREDICTED_FIRST_TOKEN_MS,
            "decode_loss": PREDICTED_DECODE_LOSS,
            "cancel_ms": PREDICTED_CANCEL_MS,
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
