"""What our engine port costs: first token and tokens a second through LlamaCpp, against its server asked directly.

    python benchmarks/engine_overhead.py [MODEL.gguf] [--rounds 60] [--tokens 32] [--llama-server PROGRAM]

Both ways go to the same child over the same Unix socket, in pairs of short runs, each pair in the other order than the
one before. What is reported is the mean of the differences within the pairs with its 95 % confidence interval: what
else the machine does hits both halves of a pair, so that the difference is seen where the runs themselves vary more.
Beside it stands the processor time that our side of a token takes, which does not depend on what else runs.
The direct way is a bare ``http.client`` that sends the prompt as text and reads lines. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import socket
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quietmind.base.paths import models_folder
from quietmind.engine.llama_engine import LlamaEngine
from quietmind.engine.llama_server import LlamaServer
from quietmind.engine.llamacpp import LlamaCpp, LlamaCppOptions
from quietmind.engine.port import Delta, Endpoint, Message, Request

# The port adds some requests to count the prompt's tokens (1 to 2 ms on a slow core) and some 0.1 ms of Python a token,
# while the engine needs about 10 ms a token with the smallest model.
PREDICTED_FIRST_TOKEN_MS = 3.0
PREDICTED_DECODE_LOSS = 0.01

_RESAMPLES = 2000


@dataclass(frozen=True)
class Run:
    """Milliseconds to the first token, milliseconds for each token after it, and of our processor for each."""

    first_ms: float
    token_ms: float
    processor_ms: float


@dataclass(frozen=True)
class Estimate:
    """A mean with the ends of its 95 % confidence interval, by resampling the pairs."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, differences: Sequence[float]) -> Estimate:
        """Return the trimmed mean (a tenth off each end: one pair in which the machine stood still says nothing)."""
        dice = random.Random(0)
        means = sorted(_trimmed(dice.choices(differences, k=len(differences))) for _ in range(_RESAMPLES))
        return cls(_trimmed(differences), means[_RESAMPLES // 40], means[-_RESAMPLES // 40])

    def scaled(self, factor: float) -> Estimate:
        """Return it in another unit."""
        return Estimate(self.mean * factor, self.low * factor, self.high * factor)


class SocketConnection(http.client.HTTPConnection):
    """An HTTP connection to a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of to the host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def timed(began: float, arrivals: list[tuple[float, float]]) -> Run:
    """Return the run that began then. Each piece came at a time by the clock and one of the processor, in seconds."""
    (first, spent), (last, spent_last) = arrivals[0], arrivals[-1]
    pieces = len(arrivals) - 1
    return Run(1000 * (first - began), 1000 * (last - first) / pieces, 1000 * (spent_last - spent) / pieces)


def now() -> tuple[float, float]:
    """Return the clock's time and this thread's processor time, in seconds."""
    return time.perf_counter(), time.thread_time()


def through_port(engine: LlamaEngine, request: Request) -> Run:
    """Generate as every caller does."""
    began = time.perf_counter()
    return timed(began, [now() for item in engine.generate(request) if isinstance(item, Delta)])


def directly(endpoint: Endpoint, request: Request) -> Run:
    """Generate with the standard library alone."""
    body = {
        "prompt": request.prompt,
        "n_predict": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        "stream": True,
        "cache_prompt": True,
    }
    assert endpoint.socket is not None  # llama.cpp listens on one
    began = time.perf_counter()
    connection = SocketConnection(endpoint.socket)
    connection.request("POST", "/completion", json.dumps(body), {"Authorization": f"Bearer {endpoint.key}"})
    arrivals = []
    for line in connection.getresponse():
        if line.startswith(b"data: ") and json.loads(line[6:])["content"]:
            arrivals.append(now())
    connection.close()
    return timed(began, arrivals)


def pairs(engine: LlamaEngine, request: Request, rounds: int) -> tuple[list[Run], list[Run]]:
    """Return the runs through the port and those asked directly, pair by pair."""
    port: list[Run] = []
    direct: list[Run] = []
    for round_ in range(rounds):
        if round_ % 2:
            port.append(through_port(engine, request))
        direct.append(directly(engine.endpoint, request))
        if not round_ % 2:
            port.append(through_port(engine, request))
    return port, direct


def main() -> None:
    """Print the prediction, the measurement, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=models_folder() / "SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--llama-server", type=Path, help="a llama-server to measure in place of the one in our child")
    arguments = parser.parse_args()

    print(f"predicted: first token at most {PREDICTED_FIRST_TOKEN_MS:.0f} ms later, ", end="")
    print(f"decoding at most {PREDICTED_DECODE_LOSS:.0%} slower")

    options = LlamaCppOptions(arguments.model, context=2048, threads=1)
    started = (
        LlamaServer.run(options.words, program=arguments.llama_server)
        if arguments.llama_server
        else LlamaCpp.start(options)
    )
    with started as engine:
        prompt = engine.render([Message("user", "Tell me a long story about a lighthouse keeper and the sea.")])
        request = Request(prompt, max_tokens=arguments.tokens)
        through_port(engine, request)  # fills the prompt cache, so that the first token waits for one token of prefill
        port, direct = pairs(engine, request, arguments.rounds)

    first = Estimate.of([ours.first_ms - theirs.first_ms for ours, theirs in zip(port, direct, strict=True)])
    token_ms = statistics.median(run.token_ms for run in direct)
    token = Estimate.of([ours.token_ms - theirs.token_ms for ours, theirs in zip(port, direct, strict=True)])
    loss = token.scaled(1 / token_ms)
    spent = Estimate.of([ours.processor_ms - theirs.processor_ms for ours, theirs in zip(port, direct, strict=True)])
    print(f"first token: {first.mean:+.2f} ms ({first.low:+.2f} to {first.high:+.2f}) through the port, ", end="")
    print(f"of {statistics.median(run.first_ms for run in direct):.1f} ms directly ({len(port)} pairs)")
    print(f"each token: {loss.mean:+.2%} ({loss.low:+.2%} to {loss.high:+.2%}) of {token_ms:.1f} ms")
    print(
        f"our processor: {spent.mean:+.3f} ms ({spent.low:+.3f} to {spent.high:+.3f}) a token more than asked directly"
    )
    result = {
        "benchmark": "engine_overhead",
        "model": arguments.model.name,
        "engine": engine.build,
        "rounds": arguments.rounds,
        "tokens": arguments.tokens,
        "direct": {"token_ms": round(token_ms, 2)},
        "predicted": {"first_token_ms": PREDICTED_FIRST_TOKEN_MS, "decode_loss": PREDICTED_DECODE_LOSS},
        "first_token_overhead_ms": round(first.mean, 2),
        "first_token_overhead_ms_95": [round(first.low, 2), round(first.high, 2)],
        "processor_ms_a_token": round(spent.mean, 4),
        "decode_loss": round(loss.mean, 4),
        "decode_loss_95": [round(loss.low, 4), round(loss.high, 4)],
    }
    print(json.dumps(result))


def _trimmed(values: Sequence[float]) -> float:
    cut = len(values) // 10
    return statistics.fmean(sorted(values)[cut : len(values) - cut])


if __name__ == "__main__":
    main()
