"""Bits per value against KL divergence, all codecs and peers in one picture: for benchmarks/snapshot_codecs.py."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snapshot_codecs_table import Row

from quietmind.base.errors import UsageError
from quietmind.workspace.levels import BOUNDS

_LEAST = 1e-6  # what is less is lossless, but for rounding, and stands at the lower edge


def lines(rows: Sequence[Row]) -> dict[str, list[tuple[float, float, str]]]:
    """Return the points of each codec and peer, by falling size: bits per value, mean KL, level."""
    found: dict[str, list[tuple[float, float, str]]] = {}
    for row in rows:
        if row.bits_per_value is not None and row.kl_mean is not None:
            found.setdefault(row.name, []).append((row.bits_per_value, max(row.kl_mean, _LEAST), row.level))
    return {name: sorted(points, reverse=True) for name, points in found.items()}


def require(file: Path) -> Any:
    """Return matplotlib's plotting. Raises UsageError where it is not there, or ``file`` is to be something else."""
    if file.suffix != ".svg":
        raise UsageError(f"--plot {file}: the picture is an SVG; give a name that ends in .svg")
    try:
        importlib.import_module("matplotlib").use("svg")
        return importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise UsageError(f"--plot needs matplotlib ({error}): pip install matplotlib") from error


def plot(rows: Sequence[Row], title: str, file: Path) -> None:
    """Write the picture to ``file``. Raises UsageError as ``require`` does."""
    pyplot = require(file)
    figure, axes = pyplot.subplots(figsize=(9, 6))
    for name, points in lines(rows).items():
        bits, divergence, _ = zip(*points, strict=True)
        axes.plot(bits, divergence, "o-" if name in ("transform", "perchannel") else "s--", label=name, markersize=4)
        for x, y, level in points:
            if " x " not in level:  # the further steps of a curve need no names
                axes.annotate(level, (x, y), textcoords="offset points", xytext=(4, 3), fontsize=7)
    for level, bound in BOUNDS.items():
        axes.axhline(bound.kl, color="grey", linewidth=0.6)
        axes.annotate(f"{level}: {bound.kl:g}", (0.3, bound.kl), fontsize=7, color="grey", va="bottom")
    axes.set(xscale="log", yscale="log", title=title)
    axes.set(xlabel="bits per value, all headers included (16: plain)", ylabel="mean KL of the next token, nats")
    ticks = [0.25, 0.5, 1, 2, 4, 8, 16]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(fontsize=7)
    axes.grid(linewidth=0.3)
    figure.tight_layout()
    figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)
