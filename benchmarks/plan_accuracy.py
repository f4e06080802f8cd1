"""Compares the plan's bytes with the engine's own account, its speeds with published ones, and with other planners.

    python benchmarks/plan_accuracy.py [--gguf FILE ...] [--speeds FILE.csv] [--here] [--quick]

The engine (llama.cpp in xllamacpp) loads every model dry in a child process: it sizes every buffer and takes no memory,
so that models of any size are measured anywhere, to the byte. What is compared are the rows of the ledger that a person
is shown: every case is planned on a machine of enough memory. The cases are public models, written as files that are
all header, over contexts, KV types, micro-batches, with and without flash attention; or the files given (of a split
model any part). Prints the predictions, then the measurements, worst first, what the peers say, the speeds
(speed_accuracy.py), and one JSON line of shares.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

import peers
import speed_accuracy
from engine_account import Account, account
from header_only import SHAPES, write_header

from quietmind.base.errors import ModelNotFound, QuietmindError, UsageError
from quietmind.base.units import MIB
from quietmind.machine.machine import Device, Host, Machine
from quietmind.model.card import ModelCard
from quietmind.model.ggml_types import GGML_TYPES
from quietmind.model.gguf import read_card
from quietmind.model.locate import locate
from quietmind.plan import Ask, plan

CONTEXTS = (4096, 32_768, 131_072, 262_144, 1_048_576)
KV_TYPES = ("f16", "q8_0", "q4_0")
MICRO_BATCHES = (512, 1024, 2048, 4096)
QUICK = ((131_072, 2048, "q8_0", True), (32_768, 512, "f16", False))
BATCH = 2048  # the engine's own: tokens that are handed over at once, micro-batches beyond it with it

PIB = 1 << 50
HOST = Host("any", "any", instructions=("avx2",))  # as the engine of the wheel is built for
MACHINE = Machine("any of enough memory", (Device("cpu", "any", PIB, PIB),), (), HOST)

CHILDREN = 2  # dry loads at a time
COMPUTE_WITHIN, TOTAL_WITHIN = 0.03, 0.01
PARTS = ("weights", "kv", "compute", "total")
_TYPE_NUMBERS = {layout.name: number for number, layout in GGML_TYPES.items()}


@dataclass(frozen=True)
class Case:
    """A model file and the settings it runs with. Context in tokens, a multiple of the engine's step."""

    name: str
    path: Path
    context: int
    micro_batch: int
    kv: str
    flash: bool

    def __str__(self) -> str:
        flash = "" if self.flash else ", no flash attention"
        return f"{self.name}: context {self.context:,}, micro-batch {self.micro_batch:,}, KV {self.kv}{flash}"


@dataclass(frozen=True)
class Bytes:
    """Bytes of a case, predicted or measured. ``refused``: why there are none."""

    weights: int = 0
    kv: int = 0
    compute: int = 0
    refused: str | None = None

    @property
    def total(self) -> int:
        """All three together."""
        return self.weights + self.kv + self.compute


def settings(quick: bool) -> Sequence[tuple[int, int, str, bool]]:
    """Return context, micro-batch, KV type and flash attention of every run of a model."""
    if quick:
        return QUICK
    with_flash = product(CONTEXTS, MICRO_BATCHES, KV_TYPES, (True,))
    return [*with_flash, *product(CONTEXTS, MICRO_BATCHES, ("f16",), (False,))]  # V cannot be quantized without it


def cases_of(files: Mapping[str, Path], *, quick: bool, each: int | None) -> list[Case]:
    """Return the cases of ``files``: with all settings, or with ``each`` of them in turn."""
    runs = settings(quick)
    return [
        Case(name, path, *runs[(number + turn) % len(runs)])
        for number, (name, path) in enumerate(files.items())
        for turn in range(each or len(runs))
    ]


def predicted(case: Case, card: ModelCard | None, why: str) -> Bytes:
    """Return the bytes by the rows of the plan's ledger. Of these the engine's account knows nothing of two: the logits
    that it keeps for us, and its process beside its buffers.
    """
    if card is None:
        return Bytes(refused=why)
    ask = Ask(
        context=case.context,
        kv_type=case.kv,
        micro_batch=case.micro_batch,
        batch=max(BATCH, case.micro_batch),
        flash_attention=case.flash,
    )
    try:
        ledger = plan(MACHINE, card, ask).ledger
    except QuietmindError as error:
        return Bytes(refused=str(error))
    kv = ledger.component("KV cache") + ledger.component("recurrent state")
    return Bytes(ledger.component("weights"), kv, ledger.component("compute buffer"))


def measured(case: Case) -> Account:
    """Return the bytes by the engine."""
    return account(case.path, case.context, case.micro_batch, _TYPE_NUMBERS[case.kv], flash_attention=case.flash)


def error_share(prediction: Bytes | peers.Answer, truth: Bytes, part: str) -> float:
    """Return how far off ``part`` is, as a share of the truth; 1 where nothing was predicted."""
    if prediction.refused is not None:
        return 1.0
    wanted = getattr(truth, part)
    return float(abs(getattr(prediction, part) - wanted) / wanted) if wanted else 0.0


@dataclass(frozen=True)
class Result:
    """A case with both sides."""

    case: Case
    prediction: Bytes
    truth: Bytes

    def error(self, part: str) -> float:
        """Return how far off ``part`` is, as a share."""
        return error_share(self.prediction, self.truth, part)

    @property
    def worst(self) -> tuple[float, str]:
        """The largest error and the part that has it."""
        return max((self.error(part), part) for part in PARTS)

    def __str__(self) -> str:
        if self.prediction.refused is not None:
            return f"{self.case}: refused by us: {self.prediction.refused}"
        cells = (
            f"{part} {getattr(self.truth, part) / MIB:,.2f} "
            f"({getattr(self.prediction, part) - getattr(self.truth, part):+,} B, {self.error(part):.2%})"
            for part in PARTS
        )
        return f"{self.case}: " + ", ".join(cells)


def run_cases(cases: Sequence[Case]) -> tuple[list[Result], list[tuple[Case, str]]]:
    """Predict every case, print it, measure it. Return what both sides say, and what the engine refuses."""
    cards: dict[Path, tuple[ModelCard | None, str]] = {}
    for path in dict.fromkeys(case.path for case in cases):
        try:
            cards[path] = read_card(path), ""
        except QuietmindError as error:
            cards[path] = None, str(error)
    predictions = {case: predicted(case, *cards[case.path]) for case in cases}
    print("predicted (MiB)")
    for case, bytes_ in predictions.items():
        said = bytes_.refused or ", ".join(f"{part} {getattr(bytes_, part) / MIB:,.2f}" for part in PARTS)
        print(f"  {case}: {said}")
    with ThreadPoolExecutor(CHILDREN) as pool:
        accounts = list(pool.map(measured, cases))
    results, refused = [], []
    for case, found in zip(cases, accounts, strict=True):
        if found.refused is None:
            results.append(Result(case, predictions[case], Bytes(found.weights, found.kv, found.compute)))
        else:
            refused.append((case, found.refused))
    results.sort(key=lambda result: result.worst, reverse=True)
    return results, refused


def run_peers(results: Sequence[Result]) -> dict[str, dict[str, object]]:
    """Ask the peers about the same cases and return, by peer, how far off they are."""
    python, reason = peers.install()
    if python is None:
        print(f"no peers: {reason}")
        return {name: {"installed": False, "cases": 0, "refused": reason} for name in peers.PEERS}
    vocabulary = {path: _vocabulary(path) for path in {result.case.path for result in results}}
    questions = [
        peers.Question(case.path, case.context, case.micro_batch, case.kv, vocabulary[case.path])
        for case in (result.case for result in results)
    ]
    answers = peers.ask(python, questions) if questions else []
    return {name: _judged(name, results, [answer[name] for answer in answers]) for name in peers.PEERS}


def _vocabulary(path: Path) -> int:
    try:
        return read_card(path).vocabulary
    except QuietmindError:
        return 0


def _judged(name: str, results: Sequence[Result], answers: Sequence[peers.Answer]) -> dict[str, object]:
    pairs = [(answer, result) for answer, result in zip(answers, results, strict=True) if answer.refused is None]
    refusals = sorted({answer.refused for answer in answers if answer.refused is not None})
    judged: dict[str, object] = {"installed": True, "cases": len(pairs), "refused": len(answers) - len(pairs)}
    if refusals:
        judged["reasons"] = refusals[:3]
    for part in ("weights", "kv", "total"):
        errors = [error_share(answer, result.truth, part) for answer, result in pairs]
        judged[part] = {"median": round(median(errors), 4), "worst": round(max(errors), 4)} if errors else None
    print(f"  {name}: {judged}")
    return judged


def run_speeds(table: Path | None, *, here: bool, quick: bool) -> dict[str, object]:
    """Return the speed part's counts and shares, of all rows and of those that nothing was fitted on."""
    real: list[speed_accuracy.Judged] = []
    if here:
        from speed_here import runs_here

        real = runs_here(quick)
    return speed_accuracy.run(speed_accuracy.tables(table), here=real)


def share(results: Sequence[Result], holds: Callable[[Result], bool]) -> float:
    """Return the share of ``results`` for which ``holds``, 0 of none."""
    return round(sum(map(holds, results)) / len(results), 4) if results else 0.0


def summary(results: Sequence[Result]) -> dict[str, object]:
    """Return the shares of the byte part and its worst case."""
    worst = None
    if results:
        error, part = results[0].worst
        worst = {"case": str(results[0].case), "part": part, "error": round(error, 5)}
    return {
        "cases": len(results),
        "weights_exact": share(results, lambda result: result.error("weights") == 0),
        "kv_exact": share(results, lambda result: result.error("kv") == 0),
        "compute_within_3pct": share(results, lambda result: result.error("compute") <= COMPUTE_WITHIN),
        "total_within_1pct": share(results, lambda result: result.error("total") <= TOTAL_WITHIN),
        "worst": worst,
    }


def files_of(given: Iterable[Path], folder: Path) -> dict[str, Path]:
    """Return the files to measure by name: those given, or every shape written to ``folder`` and a real model."""
    files: dict[str, Path] = {}
    for path in dict.fromkeys(map(first_part, given)):
        name = path.stem if path.stem not in files else str(path)
        files[name] = path
    if not files:
        for shape in SHAPES:
            files[shape.name] = folder / f"{shape.name}.gguf"
            write_header(shape, files[shape.name])
        try:
            files["tiny (real weights)"] = locate("tiny")
        except ModelNotFound as missing:
            print(f"without the small real model: {missing}")
    return files


def first_part(path: Path) -> Path:
    """Return the first part of a split model, which the engine opens; another file as it is."""
    first = path.with_name(re.sub(r"-\d{5}-of-(\d{5}\.gguf)$", r"-00001-of-\1", path.name))
    return first if first.is_file() else path


def arguments() -> argparse.Namespace:
    """Return what was given on the command line. Ends with one line for files that are not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, nargs="+", default=[], metavar="FILE", help="these files instead")
    parser.add_argument("--speeds", type=Path, metavar="FILE.csv", help="another table of speeds")
    parser.add_argument("--here", action="store_true", help="also run the real engine on this machine (minutes)")
    parser.add_argument("--quick", action="store_true", help="one setting of each model instead of eighty")
    given = parser.parse_args()
    for file in [*given.gguf, *([given.speeds] if given.speeds else [])]:
        if not file.is_file():
            raise SystemExit(f"error: {file}: there is no such file")
    return given


def main() -> None:
    """Run every case and print the comparison."""
    given = arguments()
    try:
        speed_accuracy.check(given.speeds)
    except UsageError as error:
        raise SystemExit(f"error: {error}") from None
    with tempfile.TemporaryDirectory() as folder:
        files = files_of(given.gguf, Path(folder))
        results, refused = run_cases(
            cases_of(files, quick=given.quick, each=1 if given.quick and not given.gguf else None)
        )
        print("measured (MiB) and the error of the prediction, worst first")
        for result in results:
            print(f"  {result}")
        for case, reason in refused:
            print(f"  {case}: refused by the engine: {reason}")
        print("peers on the same cases: errors as shares of what the engine takes")
        compared = run_peers(results)
    print("speeds")
    speeds = run_speeds(given.speeds, here=given.here, quick=given.quick)
    exact = share(results, lambda result: result.error("compute") == 0)
    print(
        f"{len(results)} cases, compute buffer equal to the byte in {exact:.1%}; {len(refused)} refused by the engine"
    )
    print(json.dumps({**summary(results), **speeds, "peers": compared}, ensure_ascii=False))


if __name__ == "__main__":
    main()
