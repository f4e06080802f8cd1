"""What our engine port costs: first token and tokens a second through LlamaCpp, against its server asked directly.

    python benchmarks/engine_overhead.py [MODEL.gguf] [--rounds 12] [--tokens 64]

Both ways go to the same child, take turns in one run, and swap who goes first. The direct way is a bare
``http.client`` that sends the prompt as text and reads lines. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from quietmind.base.paths import models_folder
from quietmind.engine.llamacpp import LlamaCpp, LlamaCppOptions
from quietmind.engine.port import Delta, Message, Request

# The port adds one request to count the prompt's tokens (1 to 2 ms on a slow core) and some 0.1 ms of Python a token,
# while the engine needs about 10 ms a token with the smallest model.
PREDICTED_FIRST_TOKEN_MS = 3.0
PREDICTED_DECODE_LOSS = 0.03


@dataclass(frozen=True)
class Run:
    """Milliseconds to the first token, and tokens a second after it."""

    first_ms: float
    per_second: float


def timed(began: float, arrivals: list[float]) -> Run:
    """Return the run that began and whose pieces arrived at these times, in seconds."""
    return Run(1000 * (arrivals[0] - began), (len(arrivals) - 1) / (arrivals[-1] - arrivals[0]))


def through_port(engine: LlamaCpp, request: Request) -> Run:
    """Generate as every caller does."""
    began = time.perf_counter()
    return timed(began, [time.perf_counter() for item in engine.generate(request) if isinstance(item, Delta)])


def directly(address: str, authorization: str, request: Request) -> Run:
    """Generate with the standard library alone."""
    body = {
        "prompt": request.prompt,
        "n_predict": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        "stream": True,
        "cache_prompt": True,
    }
    began = time.perf_counter()
    connection = http.client.HTTPConnection(address)
    connection.request("POST", "/completion", json.dumps(body), {"Authorization": authorization})
    arrivals = []
    for line in connection.getresponse():
        if line.startswith(b"data: ") and json.loads(line[6:])["content"]:
            arrivals.append(time.perf_counter())
    connection.close()
    return timed(began, arrivals)


def main() -> None:
    """Print the prediction, the measurement, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=models_folder() / "SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()

    print(f"predicted: first token at most {PREDICTED_FIRST_TOKEN_MS:.0f} ms later, ", end="")
    print(f"decoding at most {PREDICTED_DECODE_LOSS:.0%} slower")

    port: list[Run] = []
    direct: list[Run] = []
    with LlamaCpp.start(LlamaCppOptions(arguments.model, context=2048)) as engine:
        prompt = engine.render([Message("user", "Tell me a long story about a lighthouse keeper and the sea.")])
        request = Request(prompt, max_tokens=arguments.tokens)
        client = engine._http._client
        address, authorization = urlsplit(str(client.base_url)).netloc, client.headers["Authorization"]
        through_port(engine, request)  # fills the prompt cache, so that the first token waits for one token of prefill
        for round_ in range(arguments.rounds):
            if round_ % 2:
                port.append(through_port(engine, request))
            direct.append(directly(address, authorization, request))
            if not round_ % 2:
                port.append(through_port(engine, request))

    first = [statistics.median(run.first_ms for run in runs) for runs in (port, direct)]
    speed = [statistics.median(run.per_second for run in runs) for runs in (port, direct)]
    print(f"first token: {first[0]:.1f} ms through the port, {first[1]:.1f} ms directly (medians of {len(port)})")
    print(f"decoding: {speed[0]:.1f} tokens/s through the port, {speed[1]:.1f} directly")
    result = {
        "benchmark": "engine_overhead",
        "model": arguments.model.name,
        "rounds": arguments.rounds,
        "tokens": arguments.tokens,
        "first_token_ms": {"port": round(first[0], 2), "direct": round(first[1], 2)},
        "tokens_per_second": {"port": round(speed[0], 2), "direct": round(speed[1], 2)},
        "predicted": {"first_token_ms": PREDICTED_FIRST_TOKEN_MS, "decode_loss": PREDICTED_DECODE_LOSS},
        "first_token_overhead_ms": round(first[0] - first[1], 2),
        "decode_loss": round(1 - speed[0] / speed[1], 4),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
