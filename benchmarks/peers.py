"""Other planners on the same files: what they say of weights and KV cache, and of the whole.

    python benchmarks/peers.py FILE.gguf [--context 32768] [--kv q8_0]

They are installed in a virtual environment of their own, made at the first use below the user's cache folder, so that
nothing of theirs meets the project's. Each is asked through the functions behind its command line, with local files;
what a peer cannot do is recorded as refused, with its reason.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

# Pinned, so that a comparison can be repeated. None: no package of its own, it comes with the engine.
PEERS: dict[str, str | None] = {
    "hf-mem": "hf-mem==0.5.6",
    "moe-fit": "moe-fit==0.1.0",
    "modelinfo-cli": "modelinfo-cli==1.4.4",
    "kvfit": "kvfit==0.3.0",
    "xllamacpp.memory": None,
}
SUPPORT = "gguf==0.19.0"  # what xllamacpp.memory reads files with
INSTALL_SECONDS, ASK_SECONDS = 300, 600

WORKER = r"""
import importlib.util, json, struct, sys
from functools import cache, lru_cache

@lru_cache(maxsize=4)
def header(path):
    with open(path, "rb") as file:
        return file.read(32 << 20)

@cache
def moefit_model(path):
    from moefit.gguf import read_local
    return read_local(path)

@cache
def modelinfo_tensors(path):
    from modelinfo.parsers.gguf import parse_gguf_header
    return parse_gguf_header(path)

@cache
def reader(path):
    from gguf import GGUFReader
    found = GGUFReader(path, "r")
    return ({field.name: {"value": field.contents()} for field in found.fields.values()},
            sum(int(tensor.n_bytes) for tensor in found.tensors))

@cache
def engine_memory(folder):
    spec = importlib.util.spec_from_file_location("engine_memory", folder + "/memory.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["engine_memory"] = module
    spec.loader.exec_module(module)
    return module

def hf_mem(case):
    from hf_mem.gguf.metadata import parse_gguf_metadata
    found = parse_gguf_metadata(header(case["path"]), True, case["context"], case["kv"].upper())
    return found.bytes_count, found.kv_cache.cache_size, None

def moe_fit(case):
    from moefit.plan import kv_cache_bytes
    bits = {"f16": 16, "q8_0": 8}.get(case["kv"])
    if bits is None:
        raise ValueError("it knows KV of 8 and 16 bits only")
    model = moefit_model(case["path"])
    weights = sum(tensor.n_bytes for tensor in model.tensors)
    return weights, kv_cache_bytes(model, case["context"], bits), None

def modelinfo_cli(case):
    from modelinfo.calculator import calculate_footprint
    if case["kv"] != "f16":
        raise ValueError("it knows KV of 16 bits only")
    found = calculate_footprint(modelinfo_tensors(case["path"]), context_length=case["context"])
    return found["base_memory_bytes"], found["kv_cache_bytes"], found["total_memory_bytes"]

def xllamacpp_memory(case):
    metadata, weights = reader(case["path"])
    # The files name no tokens; the vocabulary's size is all that it reads of them.
    metadata = metadata | {"tokenizer.ggml.tokens": {"value": range(case["vocabulary"])}}
    kv, _, graph = engine_memory(case["engine"]).graph_size(
        metadata, case["context"], case["micro_batch"], 1, case["kv"])
    return weights, sum(kv), weights + sum(kv) + graph

def kvfit(case):
    raise ValueError("it reads models from a hub only")

PEERS = {"hf-mem": hf_mem, "moe-fit": moe_fit, "modelinfo-cli": modelinfo_cli, "kvfit": kvfit,
         "xllamacpp.memory": xllamacpp_memory}
for line in sys.stdin:
    case = json.loads(line)
    said = {}
    for name, ask in PEERS.items():
        try:
            weights, kv, total = ask(case)
            total = weights + kv if total is None else total
            said[name] = {"weights": int(weights), "kv": int(kv), "total": int(total)}
        except BaseException as error:
            said[name] = {"refused": f"{type(error).__name__}: {error}"[:160]}
    print(json.dumps(said), flush=True)
"""


@dataclass(frozen=True)
class Question:
    """What a peer is asked about: a file, and the settings it would run with."""

    path: Path
    context: int
    micro_batch: int
    kv: str
    vocabulary: int


@dataclass(frozen=True)
class Answer:
    """Bytes by a peer. ``total`` is weights and KV where the peer says nothing of compute buffers."""

    weights: int = 0
    kv: int = 0
    total: int = 0
    refused: str | None = None


def install() -> tuple[Path | None, str]:
    """Return the interpreter of the peers' environment, made if need be; None and the reason where it cannot be."""
    folder = Path(platformdirs.user_cache_dir("quietmind")) / "peers"
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    wanted = [*(package for package in PEERS.values() if package), SUPPORT]
    done = folder / "installed.txt"
    if python.exists() and done.exists() and done.read_text(encoding="utf-8") == "\n".join(wanted):
        return python, ""
    try:
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
        subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_SECONDS)
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        return None, f"they cannot be installed: {' '.join(last)[:160]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"they cannot be installed: {error}"
    done.write_text("\n".join(wanted), encoding="utf-8")
    return python, ""


def ask(python: Path, questions: Sequence[Question]) -> list[dict[str, Answer]]:
    """Return what each peer says to each question. A peer's error is its refusal."""
    import xllamacpp  # its package holds one of the peers; a folder name is all that is taken from it

    engine = str(Path(str(xllamacpp.__file__)).parent)
    lines = "".join(
        json.dumps(
            {
                "path": str(question.path),
                "context": question.context,
                "micro_batch": question.micro_batch,
                "kv": question.kv,
                "vocabulary": question.vocabulary,
                "engine": engine,
            }
        )
        + "\n"
        for question in questions
    )
    done = subprocess.run(
        [str(python), "-c", WORKER], input=lines, capture_output=True, text=True, timeout=ASK_SECONDS, check=False
    )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(answers) != len(questions):
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise SystemExit(f"the peers answered {len(answers)} of {len(questions)} questions: {last[0][:160]}")
    return [{name: Answer(**said) for name, said in answer.items()} for answer in answers]


def main() -> None:
    """Ask every peer about one file."""
    from quietmind.model.gguf import read_card

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--context", type=int, default=32768)
    parser.add_argument("--kv", default="f16")
    given = parser.parse_args()
    python, reason = install()
    if python is None:
        raise SystemExit(reason)
    question = Question(given.file, given.context, 512, given.kv, read_card(given.file).vocabulary)
    for name, answer in ask(python, [question])[0].items():
        print(f"{name:<18} {answer}")


if __name__ == "__main__":
    main()
