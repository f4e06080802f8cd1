"""Compares predicted speeds with published runs, and with runs of the real engine on this machine.

    python benchmarks/speed_accuracy.py [--speeds FILE.csv] [--here [--quick]]

Without a table the one beside this file is taken (published_speeds.csv; published_runs.py says what its columns mean),
and the shared one where it is. Constants were fitted on some of its rows, which say so; all others are held out. A row
that cannot be predicted is named and left out. Prints for every case the prediction, then the truth, worst first, and
one JSON line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from published_runs import OWN, SHARED, Case, speed_rows

from quietmind.base.errors import UsageError
from quietmind.plan.interval import Interval
from quietmind.plan.speed import predict

WITHIN = 0.2


@dataclass(frozen=True)
class Judged:
    """A prediction beside the truth, in tokens a second. ``where`` it ran: cpu, cuda, metal, rocm, hybrid."""

    case: str
    what: str
    predicted: Interval
    truth: float
    fitted: bool
    limit: str
    where: str = "cpu"

    @property
    def error(self) -> float:
        """How far the middle is off, as a share of the truth."""
        return self.predicted.mid / self.truth - 1

    @property
    def inside(self) -> bool:
        """Whether the truth is in the interval."""
        return self.predicted.low <= self.truth <= self.predicted.high

    @property
    def width(self) -> float:
        """The interval's upper end as a multiple of the lower."""
        return self.predicted.high / self.predicted.low


def judged(case: Case) -> Iterator[Judged]:
    """Yield the prediction of each speed that ``case`` states, beside it."""
    speed = predict(
        case.machine,
        case.card,
        case.placement,
        kv_type=case.kv_type,
        micro_batch=case.micro_batch,
        depth=case.depth,
        threads=case.threads,
        engine=case.engine,
    )
    assert speed is not None, "rows of unknown bandwidth are left out"
    for what, predicted, truth in (("prefill", speed.prefill, case.prefill), ("decode", speed.decode, case.decode)):
        if truth and predicted is not None:
            yield Judged(case.where, what, predicted, truth, case.fitted, speed.limit, _ran_on(case))


def _ran_on(case: Case) -> str:
    computing = {key for key in (*case.placement.dense, *case.placement.experts) if key}
    kinds = {device.kind for device in case.machine.devices if device.key in computing}
    return kinds.pop() if len(kinds) == 1 else "hybrid"


def summary(results: Sequence[Judged], left_out: Sequence[str]) -> dict[str, object]:
    """Return the counts and shares, of all cases and of those that nothing was fitted on."""
    held_out = [result for result in results if not result.fitted]
    return {
        "speed_cases": len(results),
        "speed_within_20pct": _within(results),
        "speed_in_interval": _inside(results),
        "speed_heldout_cases": len(held_out),
        "speed_heldout_within_20pct": _within(held_out),
        "speed_heldout_in_interval": _inside(held_out),
        "speed_heldout_median_error": round(median(abs(r.error) for r in held_out), 3) if held_out else None,
        "speed_interval_median_width": round(median(r.width for r in results), 2) if results else None,
        "speed_heldout_by_kind": {
            name: {"cases": len(group), "within_20pct": _within(group), "in_interval": _inside(group)}
            for name, group in _groups(held_out).items()
        },
        "speed_left_out": list(left_out),
    }


def _groups(results: Sequence[Judged]) -> dict[str, list[Judged]]:
    groups: dict[str, list[Judged]] = {}
    for result in results:
        groups.setdefault(f"{result.where} {result.what}", []).append(result)
    return dict(sorted(groups.items()))


def _within(results: Sequence[Judged]) -> float | None:
    return _share(results, lambda result: abs(result.error) <= WITHIN)


def _inside(results: Sequence[Judged]) -> float | None:
    return _share(results, lambda result: result.inside)


def _share(results: Sequence[Judged], holds: Callable[[Judged], bool]) -> float | None:
    return round(sum(map(holds, results)) / len(results), 3) if results else None


def tables(given: Path | None) -> list[Path]:
    """Return the tables to read: the one given, else our own and the shared one if it is there."""
    return [given] if given is not None else [OWN, *([SHARED] if SHARED.is_file() else [])]


def check(table: Path | None) -> None:
    """Read a table that was given, before anything that takes long. Raises UsageError where it is none."""
    if table is not None:
        speed_rows(table)


def run(speeds: Sequence[Path], *, here: Sequence[Judged] = ()) -> dict[str, object]:
    """Judge every row of the tables and the runs in ``here``, print them worst first, and return the summary.

    Raises UsageError for a table that is none.
    """
    results, left_out = list(here), []
    for table in speeds:
        cases, without = speed_rows(table)
        results += [result for case in cases for result in judged(case)]
        left_out += without
    for result in sorted(results, key=lambda result: -abs(result.error)):
        print(_line(result))
    for line in left_out:
        print(f"left out: {line}")
    return summary(results, left_out)


def _line(result: Judged) -> str:
    notes = ["" if result.inside else "OUTSIDE", "fitted" if result.fitted else ""]
    if result.what == "decode":
        notes.append(f"waits for {result.limit}")
    return (
        f"{result.what:<7} predicted {result.predicted!s:<20} measured {result.truth:>7.1f} tokens/s "
        f"{result.error:+5.0%}  {'; '.join([result.case, *(note for note in notes if note)])}"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--speeds", type=Path, help="table of published speeds")
    parser.add_argument("--here", action="store_true", help="also run the real engine on this machine (minutes)")
    parser.add_argument("--quick", action="store_true", help="with --here: two small models only")
    given = parser.parse_args()
    here: list[Judged] = []
    if given.here:
        from speed_here import runs_here

        here = runs_here(given.quick)
    try:
        print(json.dumps(run(tables(given.speeds), here=here), ensure_ascii=False))
    except UsageError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
