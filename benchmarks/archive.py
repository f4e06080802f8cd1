"""How fast an archive of many pages is indexed and searched, and how well the page that a query describes is found.

    python benchmarks/archive.py --pages DIR --queries FILE.jsonl [--half tune] [--times 10] [--dense-pages 300]
        [--legs words,meaning,fused] [--peers bm25s,tantivy,...]

Every line of the queries is {"query", "path", "lang"}: the page (below DIR) that has to be found; the best passage of a
page stands for it. Settings are tuned on one half of the queries, and the other half is reported. Ours and every peer
work in processes of their own, on the same pages, with the same queries. The last line is JSON.

Vectors take long on a processor, so the legs of meaning are measured on some of the pages: half of --dense-pages are
pages of queries, the others are not; words alone are measured on the same ones.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import archive_known
from archive_child import ChildFailed, page_files, quantile, run
from archive_copies import write_copies
from archive_known import FIRST, HALVES, Known, Score, half, scores
from archive_peers import LIBRARIES, UNITS, missing
from archive_tools import TOOLS

from quietmind.base.errors import UsageError

LEGS = ("words", "meaning", "fused")
PEERS = LIBRARIES | TOOLS
# What 2 cores of a slow server Xeon did before, on other text: how far another machine is from it shows.
PREDICTED_MB_PER_S = 1.2
PREDICTED_RESCAN_US_PER_PAGE = 20
PREDICTED_CHARS_PER_PASSAGE = 900
PREDICTED_QUERY_US_PER_PASSAGE = 0.3
PREDICTED_DENSE_PER_S = 2.0
PREDICTED_MRR = 0.6
# What is aimed at: against the best peer that searches by words, and of both legs together against the better one.
AIM_RUSSIAN, AIM_ENGLISH, AIM_FUSED = 1.10, 1.0, 1.05


@dataclass(frozen=True)
class Trial:
    """What is measured: pages, the queries asked, the pages that exist in two languages, and where results are kept.

    ``unit`` is what libraries are given, pages or passages; None: both, and the better counts.
    """

    pages: Path
    asked: Sequence[Known]
    other: Mapping[str, str]
    languages: Mapping[str, str]
    folder: Path
    seconds: float
    threads: int
    unit: str | None = None

    def task(self, **more: object) -> dict[str, Any]:
        """Return what a child is told."""
        told = {"pages": str(self.pages), "queries": [known.query for known in self.asked]}
        return told | {"seconds": self.seconds, "threads": self.threads, "depth": FIRST + 1} | more

    def scored(self, answer: Mapping[str, Any]) -> dict[str, Score]:
        """Return the scores of a child's answer; it may have ended before the last query."""
        found = answer["found"]
        return scores(self.asked[: len(found)], found, self.other, self.languages)


def main() -> None:
    """Print the predictions, then what was measured, then one line of JSON."""
    given = _arguments()
    try:
        known = archive_known.read(given.queries)
        paths = page_files(given.pages)
        there = set(paths)
        asked = sorted(
            (each for each in known if each.path in there and half(each.path) == given.half),
            key=lambda each: archive_known.order(each.path),
        )[: given.most_queries]
        if not asked:
            raise UsageError(f"{given.queries}: no query of this half has its page below {given.pages}; check both")
    except UsageError as error:
        raise SystemExit(str(error)) from error
    other = archive_known.partners(paths)
    sizes = {name: sum(half(each.path) == name and each.path in there for each in known) for name in HALVES}
    print(f"{len(paths):,} pages, {len(other) // 2:,} of them in two languages; {len(known):,} queries", end="")
    print(f", {sizes['tune']:,} to tune and {sizes['report']:,} to report; asked here: {len(asked):,} ({given.half})")
    size = sum((given.pages / path).stat().st_size for path in paths) * given.times
    _predict(size, len(paths) * given.times, given)
    with tempfile.TemporaryDirectory(prefix="quietmind-bench-", dir=given.scratch) as scratch:
        folder = Path(scratch)
        pages = given.pages
        if given.times > 1:
            pages = folder / "pages"
            write_copies(given.pages, pages, given.times)
        languages = archive_known.other_languages(known, other)
        trial = Trial(pages, asked, other, languages, folder, given.seconds, given.threads, given.unit)
        result = measure(trial, given.legs, given.dense_pages)
        result["peers"] = {name: best_of_peer(name, trial) for name in given.peers}
    _print_aims(result)
    print(json.dumps(result, ensure_ascii=False))


def measure(trial: Trial, legs: Sequence[str], dense_pages: int) -> dict[str, Any]:
    """Return the report on quietmind itself."""
    workspace = trial.folder / "workspace"
    indexed = run("archive_ours.py", "index", trial.task(workspace=str(workspace)), trial.folder, trial.seconds)
    print(
        f"measured:  {indexed['pages']:,} pages, {indexed['passages']:,} passages, {indexed['skipped']} skipped; "
        f"first index {indexed['lexical_s']:.1f} s ({indexed['pages'] / indexed['lexical_s']:.0f} pages/s), second run "
        f"{indexed['rescan_s']:.2f} s, peak memory {indexed['peak_mb']:.0f} MB"
    )
    result: dict[str, Any] = {
        name: indexed[name] for name in ("pages", "passages", "lexical_s", "rescan_s", "peak_mb")
    } | {"dense_per_s": None, "p50_ms": None, "p99_ms": None, "legs": {}}
    if "words" in legs:
        answer = run("archive_ours.py", "words", trial.task(workspace=str(workspace)), trial.folder, trial.seconds)
        result |= {"p50_ms": _rounded(quantile(answer["ms"], 0.5)), "p99_ms": _rounded(quantile(answer["ms"], 0.99))}
        print(f"           a query {result['p50_ms']} ms (half of them), {result['p99_ms']} ms (99 of 100)")
        result["legs"]["words"] = _leg("words", trial.scored(answer))
    shutil.rmtree(workspace)  # with copies it is larger than all that follows
    if {"meaning", "fused"} & set(legs) and dense_pages:
        result["dense_per_s"] = _measure_dense(trial, legs, dense_pages, result["legs"])
    return result


def _measure_dense(trial: Trial, legs: Sequence[str], count: int, into: dict[str, Any]) -> float | None:
    """Add the legs on some of the pages to ``into``; return the passages embedded in a second."""
    originals = page_files(trial.pages)
    chosen = archive_known.subset(trial.asked, originals, trial.other, count)
    pages, workspace = trial.folder / "some", trial.folder / "some-workspace"
    for path in chosen:
        (pages / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(trial.pages / path, pages / path)
    inside = set(chosen)
    some = Trial(
        pages,
        [known for known in trial.asked if known.path in inside],
        {path: partner for path, partner in trial.other.items() if {path, partner} <= inside},
        trial.languages,
        trial.folder,
        trial.seconds,
        trial.threads,
    )
    task = some.task(workspace=str(workspace))
    indexed = run("archive_ours.py", "index", task, trial.folder, trial.seconds)
    embedded = run("archive_ours.py", "embed", task, trial.folder, trial.seconds)
    print(
        f"of {len(chosen):,} pages ({indexed['passages']:,} passages, {len(some.asked):,} queries), embedded "
        f"{embedded['dense_per_s']} passages/s, peak memory {embedded['peak_mb']:.0f} MB:"
    )
    for leg in LEGS:
        if leg in legs:
            answer = run("archive_ours.py", leg, task, trial.folder, trial.seconds)
            into[f"{leg} of {len(chosen)} pages"] = _leg(leg, some.scored(answer))
    dense: float | None = embedded["dense_per_s"]
    return dense


def best_of_peer(name: str, trial: Trial) -> dict[str, Any]:
    """Return the report on a peer; of a library that may be given pages or passages, the one with the higher MRR."""
    if name not in LIBRARIES or trial.unit is not None or missing(PEERS[name]):
        return measure_peer(name, trial)
    return max((measure_peer(name, replace(trial, unit=unit)) for unit in UNITS), key=lambda said: said.get("mrr") or 0)


def measure_peer(name: str, trial: Trial) -> dict[str, Any]:
    """Return the report on a peer: its scores, time and memory, or why there are none."""
    offer = PEERS[name]
    if missing(offer):
        print(f"{name:24} is not installed: {offer.install}")
        return {"missing": offer.install}
    script = "archive_peers.py" if name in LIBRARIES else "archive_tools.py"
    try:
        answer = run(
            script, name, trial.task(scratch=str(trial.folder), unit=trial.unit), trial.folder, 2 * trial.seconds
        )
        if not answer["found"]:
            raise ChildFailed(f"answered no query within {trial.seconds:.0f} s")
    except ChildFailed as error:
        print(f"{name:24} failed: {error}")
        return {"failed": str(error)}
    about = {name: answer[name] for name in ("version", "unit", "index_s", "peak_mb")}
    about |= {"p50_ms": _rounded(quantile(answer["ms"], 0.5)), "p99_ms": _rounded(quantile(answer["ms"], 0.99))}
    leg = _leg(name, trial.scored(answer))
    print(
        f"{'':24} {answer['version']}, {answer['unit']}: index {answer['index_s']:.1f} s, a query {about['p50_ms']} "
        f"and {about['p99_ms']} ms, peak memory {answer['peak_mb']:.0f} MB, {len(answer['found']):,} queries answered"
    )
    return leg | about


def _leg(name: str, by_group: Mapping[str, Score]) -> dict[str, Any]:
    said = "  ".join(f"{group} {score.mrr:.3f} {score.recall10:.3f}" for group, score in by_group.items())
    print(f"{name:24} MRR, recall@10: {said}")
    return archive_known.as_json(by_group)


def _predict(size: int, pages: int, given: argparse.Namespace) -> None:
    passages = size / PREDICTED_CHARS_PER_PASSAGE / 1.2  # bytes a letter, both scripts
    seconds = size / 1e6 / PREDICTED_MB_PER_S
    print(
        f"predicted: {size / 1e6:.0f} MB, {passages:,.0f} passages, first index {seconds:.0f} s, "
        f"second run {pages * PREDICTED_RESCAN_US_PER_PAGE / 1e6:.2f} s, a query "
        f"{5 + passages * PREDICTED_QUERY_US_PER_PASSAGE / 1000:.0f} ms, MRR by words {PREDICTED_MRR}"
    )
    if given.dense_pages and {"meaning", "fused"} & set(given.legs):
        minutes = passages / pages * given.dense_pages / PREDICTED_DENSE_PER_S / 60
        print(f"           {PREDICTED_DENSE_PER_S} passages embedded a second, {minutes:.0f} minutes in all")
    print(
        f"aims:      Russian {AIM_RUSSIAN} times the best peer by words, English {AIM_ENGLISH} times; "
        f"both legs {AIM_FUSED} times the better one"
    )


def _print_aims(result: Mapping[str, Any]) -> None:
    """Say how the aims were met, of what was measured."""
    ours = result["legs"].get("words", {}).get("by_language", {})
    for lang, aim in (("ru", AIM_RUSSIAN), ("en", AIM_ENGLISH)):
        best = [
            (peer["by_language"][lang]["mrr"], name)
            for name, peer in result["peers"].items()
            if lang in peer.get("by_language", {})
        ]
        if best and lang in ours:
            mrr, name = max(best)
            ratio = ours[lang]["mrr"] / mrr if mrr else float("inf")
            print(f"{lang}: MRR {ours[lang]['mrr']:.3f} is {ratio:.3f} times that of {name} ({mrr:.3f}); aim {aim}")
    legs = {name.partition(" ")[0]: leg["mrr"] for name, leg in result["legs"].items() if " " in name}
    if {"words", "meaning", "fused"} <= legs.keys():
        better = max(legs["words"], legs["meaning"])
        print(f"both legs: MRR {legs['fused']:.3f} is {legs['fused'] / better:.3f} times the better; aim {AIM_FUSED}")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--half", choices=HALVES, default="report")
    parser.add_argument("--times", type=int, default=1, help="copies of the pages, with altered words")
    parser.add_argument("--dense-pages", type=int, default=0, help="pages for the legs of meaning; 0: none")
    parser.add_argument("--legs", type=_names(LEGS), default=list(LEGS), help=",".join(LEGS))
    parser.add_argument("--peers", type=_names(PEERS), default=list(PEERS), help=f"{','.join(PEERS)}; '': none")
    parser.add_argument("--unit", choices=("pages", "passages"), help="for libraries; not given: the better for each")
    parser.add_argument("--most-queries", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=7200.0, help="for one part, or one peer's queries")
    parser.add_argument("--threads", type=int, default=2, help="of the embedder")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for what is written")
    return parser.parse_args()


class _names:  # noqa: N801 - a type of argparse, which shows its name
    """Names with commas between them, of those that there are."""

    def __init__(self, there: Sequence[str] | Mapping[str, object]) -> None:
        self._there = list(there)

    def __call__(self, text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        if unknown := [name for name in names if name not in self._there]:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(self._there)}")
        return names


if __name__ == "__main__":
    main()
