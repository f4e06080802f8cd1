"""What the lossless codec makes of a real cache: its size at several levels of Zstandard, and how fast both ways.

    python benchmarks/exact_codec.py [--model FILE.gguf] [--words 1500]

The small model reads words of the example archive, and its saved cache is packed and unpacked. Prints a line for each
level and one JSON line.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from pathlib import Path

from quietmind.engine.llamacpp import LlamaCpp, LlamaCppOptions
from quietmind.engine.port import Request
from quietmind.kvstore.codec import exact
from quietmind.model.locate import locate

ARCHIVE = Path(__file__).resolve().parents[1] / "examples" / "archive"
LEVELS = (-1, 1, 3)


def saved_cache(model: Path, words: int) -> bytes:
    """Return the engine's file of a prompt of so many words."""
    text = " ".join(file.read_text("utf-8", "replace") for file in sorted(ARCHIVE.glob("requirements/*.md")))
    prompt = " ".join(text.split()[:words])
    with tempfile.TemporaryDirectory() as folder, LlamaCpp.start(LlamaCppOptions(model, context=8192)) as engine:
        for _ in engine.generate(Request(prompt, max_tokens=1)):
            pass
        engine.save(Path(folder) / "cache")
        return (Path(folder) / "cache").read_bytes()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--words", type=int, default=1500)
    given = parser.parse_args()
    content = saved_cache(given.model or locate("tiny"), given.words)
    print(f"predicted: 1.18 times smaller at level {exact.LEVEL}; higher levels gain less than 1 %\n")
    rows = []
    for level in LEVELS:
        exact.LEVEL = level
        began = time.perf_counter()
        blocks = list(exact.Exact().encode(io.BytesIO(content), len(content)))
        packed = time.perf_counter()
        target = bytearray(len(content))
        exact.Exact().decode(blocks, memoryview(target))
        assert target == content
        unpacked = time.perf_counter()
        ratio = len(content) / sum(map(len, blocks))
        speeds = [round(len(content) / seconds / 1e6) for seconds in (packed - began, unpacked - packed)]
        rows.append({"level": level, "ratio": round(ratio, 4), "encode_mb_s": speeds[0], "decode_mb_s": speeds[1]})
        print(f"level {level:>2}: {ratio:.4f} times smaller, packed at {speeds[0]} MB/s, unpacked at {speeds[1]} MB/s")
    print(json.dumps({"bytes": len(content), "levels": rows}))


if __name__ == "__main__":
    main()
