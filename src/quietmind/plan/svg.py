"""A plan as a picture: the memory of each device by component, and decode speed over the context. Plain SVG, no fonts
or scripts of its own; it follows the reader's light or dark setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import cycle
from math import ceil, floor, log2

from quietmind.base.errors import QuietmindError
from quietmind.base.units import KIB, MIB, format_bytes
from quietmind.machine.machine import Machine
from quietmind.model.card import ModelCard
from quietmind.plan.interval import Interval
from quietmind.plan.plan import Ask, DeviceUse, Plan, plan
from quietmind.plan.search import Planner
from quietmind.plan.table import shown_rates

WIDTH = 880
_MARGIN = 24
_BAR_LEFT = 120
_BAR_RIGHT = 190  # room for the total behind the bar
_BAR_HEIGHT = 34
_BAR_STEP = 62
_LEGEND_STEP = 20
_LEGEND_COLUMNS = 2
_CHART_HEIGHT = 260
_CHART_LEFT = 70
_CHART_RIGHT = 130  # room for the names of the curves
_SMALLEST_CONTEXT = 4096
_NARROWEST = 0.5  # a part of a bar thinner than this many units is not drawn

# Eight hues that keep apart in both settings and for most readers with a colour deficiency (Okabe and Ito, 2008,
# without black, and a grey), then the same ones halfway to white, in six digits: not every reader of SVG knows eight.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800", "#8c8c8c")
_FAINTER = ("#7fb8d8", "#f2cf7f", "#7fceb9", "#e5bcd3", "#aad9f4", "#eaae7f", "#dbd37f", "#c5c5c5")

_STYLE = """
  svg { background: #ffffff; color: #1c1c1e; font: 13px system-ui, sans-serif; }
  text { fill: currentColor; }
  .title { font-size: 16px; font-weight: 600; }
  .quiet { fill: #5c5c61; }
  .empty { fill: none; stroke: currentColor; stroke-opacity: 0.35; }
  .grid { stroke: currentColor; stroke-opacity: 0.15; }
  .over { fill: none; stroke: #d32f2f; stroke-width: 2; }
  .curve { fill: none; stroke-width: 2.5; }
  .band { fill-opacity: 0.18; stroke: none; }
  .here { stroke: currentColor; stroke-dasharray: 4 4; stroke-opacity: 0.6; }
  @media (prefers-color-scheme: dark) {
    svg { background: #1c1c1e; color: #f2f2f7; }
    .quiet { fill: #aeaeb2; }
  }
"""


@dataclass(frozen=True)
class Curve:
    """Decode speed over the context. ``points`` are (tokens, tokens a second), by context."""

    label: str
    points: tuple[tuple[int, Interval], ...]


def decode_curves(
    machine: Machine, card: ModelCard, ask: Ask, planned: Plan, planner: Planner = plan
) -> tuple[Curve, ...]:
    """Return decode speed at each doubling of the context, for the plan's experts and the numbers around it.

    Contexts that do not fit, or that the engine refuses, and speeds that are not known, are left out.
    """
    used = ask.experts_used or card.experts_used
    around = {count for count in (used // 2, used, used * 2) if 0 < count <= card.experts}
    counts: list[int | None] = [*sorted(around)] or [None]
    longest = max(planned.context, card.native_context)
    rungs = [_SMALLEST_CONTEXT << step for step in range(40) if _SMALLEST_CONTEXT << step <= longest]
    contexts = sorted({*rungs, planned.context})
    curves = []
    for count in counts:
        points = []
        for context in contexts:
            asked = replace(ask, context=context, experts_used=count)
            try:
                tried = planner(machine, card, asked)
            except QuietmindError:
                continue
            if tried.attainable is not None and tried.attainable.decode is not None:
                points.append((context, tried.attainable.decode))
        if points:
            label = "" if count is None else f"{count} expert{'s' if count > 1 else ''}"
            curves.append(Curve(label, tuple(points)))
    return tuple(curves)


def draw(planned: Plan, curves: Sequence[Curve]) -> str:
    """Return the plan as an SVG document: a stacked bar of memory for each device, a legend, and ``curves`` if any."""
    colours = _colours(planned)
    parts = [
        _text(_MARGIN, 34, f"{planned.title} on {planned.machine}", "title"),
        _text(_MARGIN, 56, _settings(planned), "quiet"),
    ]
    top = 82.0
    for use in planned.devices:
        parts += _bar(planned, use, colours, top)
        top += _BAR_STEP
    parts += _legend(planned, colours, top)
    top += _LEGEND_STEP * ceil(len(colours) / _LEGEND_COLUMNS) + 28
    if curves:
        parts += _chart(planned, curves, top)
        top += _CHART_HEIGHT + 84
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:g}" width="{WIDTH}" height="{top:g}"'
            ' role="img">',
            f"<title>{escape(_printable(planned.model))}: memory and speed</title>",
            f"<style>{_STYLE}</style>",
            *parts,
            "</svg>",
            "",
        ]
    )


def _colours(planned: Plan) -> dict[str, str]:
    """Return the fill of each component, largest first: hues as long as there are, then the same ones, fainter."""
    totals: dict[str, int] = {}
    for row in planned.ledger.rows:
        if row.bytes:
            totals[row.component] = totals.get(row.component, 0) + row.bytes
    largest = sorted(totals, key=lambda component: -totals[component])
    return dict(zip(largest, cycle(_COLOURS + _FAINTER), strict=False))


def _settings(planned: Plan) -> str:
    said = f"context {planned.context:,}, KV {planned.kv_type}, micro-batch {planned.micro_batch:,}: {planned.verdict}"
    if planned.attainable is not None:
        decode, prefill = shown_rates(planned)
        said += f"; decode {decode}, prefill {prefill} tokens/s"
    return said


def _printable(text: str) -> str:
    """Replace what XML cannot hold (control characters, lone surrogates): names come out of files."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{style}>{escape(_printable(words))}</text>'


def _bar(planned: Plan, use: DeviceUse, colours: dict[str, str], top: float) -> Iterator[str]:
    """Yield one device: its parts side by side in the order of the ledger, within the frame of its memory."""
    width = WIDTH - _BAR_LEFT - _BAR_RIGHT
    capacity = use.capacity_bytes or use.needed_bytes
    scale = width / max(1, capacity, use.needed_bytes)
    yield _text(_MARGIN, top + 22, use.device)
    yield _text(_BAR_LEFT, top - 4, use.name, "quiet")
    left = float(_BAR_LEFT)
    for component, size in _sizes(planned, use.device).items():
        share = size * scale
        if share >= _NARROWEST:
            told = escape(_printable(f"{component}: {format_bytes(size)}"))
            yield (
                f'<rect x="{left:.2f}" y="{top:g}" width="{share:.2f}" height="{_BAR_HEIGHT}" '
                f'fill="{colours[component]}"><title>{told}</title></rect>'
            )
        left += share
    yield (
        f'<rect x="{_BAR_LEFT}" y="{top:g}" width="{capacity * scale:.2f}" height="{_BAR_HEIGHT}" '
        f'class="{"over" if use.needed_bytes > capacity else "empty"}"/>'
    )
    held = "unknown" if use.capacity_bytes is None else format_bytes(use.capacity_bytes)
    yield _text(_BAR_LEFT + width + 12, top + 22, f"{format_bytes(use.needed_bytes)} of {held}")


def _sizes(planned: Plan, device: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for row in planned.ledger.rows:
        if row.device == device and row.bytes:
            sizes[row.component] = sizes.get(row.component, 0) + row.bytes
    return sizes


def _legend(planned: Plan, colours: dict[str, str], top: float) -> Iterator[str]:
    column_width = (WIDTH - 2 * _MARGIN) / _LEGEND_COLUMNS
    for number, (component, colour) in enumerate(colours.items()):
        row, column = divmod(number, _LEGEND_COLUMNS)
        x, y = _MARGIN + column * column_width, top + row * _LEGEND_STEP
        total = sum(row.bytes for row in planned.ledger.rows if row.component == component)
        yield f'<rect x="{x:.1f}" y="{y:g}" width="12" height="12" rx="2" fill="{colour}"/>'
        yield _text(x + 18, y + 11, f"{component}, {format_bytes(total)}")


def _chart(planned: Plan, curves: Sequence[Curve], top: float) -> Iterator[str]:
    """Yield the chart: contexts on a logarithmic axis, tokens a second on a linear one from 0."""
    left, right = float(_CHART_LEFT), float(WIDTH - _CHART_RIGHT)
    above, below = top + 34, top + 34 + _CHART_HEIGHT
    contexts = [tokens for curve in curves for tokens, _ in curve.points]
    first, last = log2(min(contexts)), log2(max(contexts))
    ticks = _ticks(max(interval.high for curve in curves for _, interval in curve.points))

    def across(tokens: int) -> float:
        return left + (right - left) * (log2(tokens) - first) / ((last - first) or 1)

    def down(rate: float) -> float:
        return below - (below - above) * rate / ticks[-1]

    yield _text(
        _MARGIN,
        top + 14,
        "decode, tokens/s, planned for each context and with all of it full (band: nine cases of ten)",
    )
    for tick in ticks:
        yield f'<line x1="{left:g}" x2="{right:g}" y1="{down(tick):.1f}" y2="{down(tick):.1f}" class="grid"/>'
        yield _text(left - 8, down(tick) + 4, f"{tick:g}", "quiet", "end")
    for exponent in range(ceil(first), floor(last) + 1):
        x = across(1 << exponent)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{above:g}" y2="{below:g}" class="grid"/>'
        yield _text(x, below + 18, _tokens(1 << exponent), "quiet", "middle")
    if min(contexts) <= planned.context <= max(contexts):
        x = across(planned.context)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{above:g}" y2="{below:g}" class="here"/>'
        yield _text(x, below + 36, "as planned", "", "middle")
    labels = _spread([down(curve.points[-1][1].mid) for curve in curves])
    for number, (curve, label) in enumerate(zip(curves, labels, strict=True)):
        colour = _COLOURS[number % len(_COLOURS)]
        highs = [f"{across(tokens):.1f},{down(rate.high):.1f}" for tokens, rate in curve.points]
        lows = [f"{across(tokens):.1f},{down(rate.low):.1f}" for tokens, rate in reversed(curve.points)]
        mids = [f"{across(tokens):.1f},{down(rate.mid):.1f}" for tokens, rate in curve.points]
        yield f'<polygon points="{" ".join(highs + lows)}" fill="{colour}" class="band"/>'
        yield f'<polyline points="{" ".join(mids)}" stroke="{colour}" class="curve"/>'
        if curve.label:
            yield f'<rect x="{right + 10:g}" y="{label - 6:.1f}" width="12" height="12" rx="2" fill="{colour}"/>'
            yield _text(right + 28, label + 5, curve.label)


def _spread(heights: Sequence[float]) -> list[float]:
    """Return heights of labels at least a line apart, as near to ``heights`` as a pass from the top allows."""
    placed = dict.fromkeys(range(len(heights)), 0.0)
    lowest = float("-inf")
    for number in sorted(placed, key=lambda index: heights[index]):
        placed[number] = max(heights[number], lowest + _LEGEND_STEP)
        lowest = placed[number]
    return list(placed.values())


def _ticks(highest: float) -> list[float]:
    """Return 0 and about five round numbers above it, the last not below ``highest``."""
    if highest <= 0:
        return [0.0, 1.0]
    rough = highest / 5
    scale = 10.0 ** floor(log2(rough) / log2(10))
    step = next(scale * factor for factor in (1, 2, 5, 10) if scale * factor >= rough * (1 - 1e-9))
    return [step * number for number in range(ceil(highest / step - 1e-9) + 1)]


def _tokens(count: int) -> str:
    if count >= MIB:
        return f"{count // MIB}M"
    return f"{count // KIB}k" if count >= KIB else str(count)
