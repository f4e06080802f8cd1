"""How fast the codecs with loss pack and unpack, on this machine and without a model: a cache of random numbers.

    python benchmarks/codec_speed.py [--shape 4x128] [--layers 8] [--tokens 4100] [--device cuda:0] [--rounds 3]

Its channels have averages and deviations of their own, and K are rotated; `transform` has a basis of orthonormal
columns, 0.7 of its width, which is what a calibrated one comes to. Each is measured with NumPy's loops and then, where
Numba is installed, with the compiled ones. Speeds are in MB of the engine's file, and in processor time, which a busy
machine changes less. `--device` is one of PyTorch's, where `transform` is measured once more. Prints what is predicted,
a line for each codec, and one JSON line.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from exact_codec import row

from quietmind.kvstore.arrays import Shape, write
from quietmind.kvstore.basis import NARROWING, Basis, Group, grouped
from quietmind.kvstore.codec import loops
from quietmind.kvstore.codec.perchannel import LEVELS, PerChannel
from quietmind.kvstore.codec.port import Codec
from quietmind.kvstore.codec.products import Accelerator, Processor
from quietmind.kvstore.codec.transform import Transform
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.floats import Floats
from quietmind.kvstore.rotation import Pairs, Rotation

RANK = 0.7  # components for each channel
PREDICTED = (
    "perchannel unpacks 500 MB/s on two cores, compiled 1,000; transform 70 and 90, and a few hundred on an accelerator"
)


def cache(rotation: Rotation, heads: int, layers: int, tokens: int) -> bytes:
    """Return a file of arrays in 16 bits."""
    chance = np.random.default_rng(1)
    width = heads * rotation.head_length

    def plane(mean: float) -> Floats:
        deviations = chance.gamma(1.5, 0.5, width).astype(np.float32)
        means = chance.normal(0, mean, width).astype(np.float32)
        return chance.standard_normal((tokens, width), np.float32) * deviations + means

    def pairs() -> Iterator[tuple[Floats, Floats]]:
        phases = rotation.phases(range(tokens))
        for _ in range(layers):
            keys = plane(4.0).reshape(tokens, heads, rotation.head_length)
            yield rotation.turned(keys, phases).reshape(tokens, width), plane(0.1)

    sink = io.BytesIO()
    write(sink, Shape(tokens, tokens, "f16", ((width, width),) * layers), range(tokens), range(tokens), pairs())
    return sink.getvalue()


def basis(rotation: Rotation, heads: int, layers: int) -> Basis:
    """Return a basis of random directions: what it takes to multiply by does not depend on which they are."""
    chance = np.random.default_rng(2)
    widths = ((heads * rotation.head_length,) * 2,) * layers
    groups: list[Group] = []
    for first, last in grouped(widths):
        width = sum(map(sum, widths[first:last]))
        before = groups[-1].width if groups else 0
        rank, through = int(RANK * width), before // NARROWING
        columns = np.linalg.qr(chance.standard_normal((width, width), np.float32))[0][:, :rank]
        narrow = np.eye(before, through, dtype=np.float16)
        widen = (0.01 * chance.standard_normal((through, width), np.float32)).astype(np.float16)
        mean, scale = np.zeros(width, np.float32), np.ones(width, np.float32)
        spread = np.ones(rank, np.float32)
        groups.append(Group(first, last, mean, scale, columns.astype(np.float16), spread, narrow, widen))
    return Basis(Fingerprint(*"abcdef"), rotation, widths, tuple(groups), {}, {})


def measured(name: str, codec: Codec, content: bytes, rounds: int) -> dict[str, Any]:
    """Return what a codec makes of ``content``, and print it."""
    blocks = list(codec.encode(io.BytesIO(content), len(content)))
    target = memoryview(bytearray(len(content)))
    found = {
        "codec": name,
        "loops": "numpy" if loops.found() is None else "compiled",
        "ratio": round(len(content) / sum(map(len, blocks)), 2),
        "encode": row(len(content), lambda: list(codec.encode(io.BytesIO(content), len(content))), rounds),
        "decode": row(len(content), lambda: codec.decode(blocks, target), rounds),
    }
    print(f"measured   {found}", flush=True)
    return found


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="4x128", help="Heads of K and of V, and their length.")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4100)
    parser.add_argument("--device", default=None)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    heads, length = map(int, given.shape.split("x"))
    rotation = Rotation(Pairs.HALVES, length, length, 1e6)
    content = cache(rotation, heads, given.layers, given.tokens)
    directions = basis(rotation, heads, given.layers)
    print(f"predicted  {PREDICTED}\n")
    codecs: list[tuple[str, Codec]] = [(f"perchannel {name}", PerChannel(rotation, LEVELS[name])) for name in LEVELS]
    codecs += [(f"transform, step {step}", Transform(directions, step, Processor())) for step in (0.5, 2.0)]
    if given.device is not None:
        home = Accelerator(given.device)
        codecs += [
            (f"transform, step {step}, {given.device}", Transform(directions, step, home)) for step in (0.5, 2.0)
        ]
    os.environ[loops.SWITCH] = "off"
    rows = [measured(name, codec, content, given.rounds) for name, codec in codecs]
    del os.environ[loops.SWITCH]
    loops.prepare(math.inf)
    if loops.found() is None:
        print("warning: Numba is not here: no compiled loops")
    else:
        rows += [measured(name, codec, content, given.rounds) for name, codec in codecs]
    print(json.dumps({"bytes": len(content), "shape": given.shape, "layers": given.layers, "codecs": rows}))


if __name__ == "__main__":
    main()
