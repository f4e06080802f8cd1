"""The head of every launch file: what it starts, and what to expect of it."""

from __future__ import annotations

from collections.abc import Iterator

import quietmind
from quietmind.base.units import format_bytes
from quietmind.engine.launch_files.launch import Launch
from quietmind.plan.engines import engine_kind
from quietmind.plan.interval import Interval
from quietmind.plan.placement import DISK
from quietmind.plan.plan import DeviceUse

# The first two lines of a Python file may declare its encoding; nothing that a model's file says stands there.
_FIRST = "Written by quietmind from a plan: change the plan and write it again rather than edit it."
# vllm/entrypoints/common/cli_args.py, api_key: everything but /v1, /v2 and /inference answers without it.
_OPEN = {
    "vllm": ("vLLM asks for the key below /v1 alone; its other paths answer whoever else works on this machine",),
}


def head(launch: Launch, stop: str, mark: str = "#") -> str:
    """Return the head as comment lines that begin with ``mark``. ``stop`` says how what was started is stopped."""
    lines = (_FIRST, *_lines(launch, stop))
    return "".join(f"{mark} {_one_line(line)}".rstrip() + "\n" for line in lines)


def _lines(launch: Launch, stop: str) -> Iterator[str]:
    plan = launch.plan
    yield ""
    quantization = f", {launch.card.quantization}" if launch.card.quantization else ""
    yield f"model:    {plan.model} ({plan.arch}{quantization})"
    yield f"machine:  {plan.machine}" + (f", {launch.nodes} of them" if launch.nodes > 1 else "")
    version = (
        f", version {launch.version}" if launch.version else ", in a version that was not known when this was written"
    )
    yield f"engine:   {engine_kind(launch.engine).title}{version}"
    yield f"context:  {plan.context:,} tokens" + (f" for each of {plan.sequences}" if plan.sequences > 1 else "")
    yield f"KV cache: {plan.kv_type}"
    if plan.split is not None:
        yield f"divided:  {plan.split}"
    for number, use in enumerate(_alike(plan.devices)):
        yield f"{'memory:' if not number else '':<9} {use}"
    yield f"speed:    {_speed(launch)}"
    for warning in (*plan.warnings, *_OPEN.get(launch.engine, ())):
        yield f"warning:  {warning}"
    if plan.verdict == "tight":
        yield "warning:  memory is tight: it fits into the machine, but not comfortably into what was free"
    yield ""
    yield f"stop:     {stop}"
    yield f"written:  {launch.command}"
    yield f"          (quietmind {quietmind.__version__})"


def _alike(uses: tuple[DeviceUse, ...]) -> Iterator[str]:
    """Yield a line for each device, or for several that hold the same."""
    groups: dict[object, list[DeviceUse]] = {}
    for use in uses:
        groups.setdefault((use.name, use.capacity_bytes, use.needed_bytes), []).append(use)
    for first, *others in groups.values():
        keys = f"{first.device} to {others[-1].device}, each" if others else first.device
        yield f"{keys}: {_held(first)}"


def _held(use: DeviceUse) -> str:
    if use.device == DISK:
        return f"{format_bytes(use.needed_bytes)}, mapped from the model's file"
    capacity = "an unknown amount" if use.capacity_bytes is None else format_bytes(use.capacity_bytes)
    return f"{format_bytes(use.needed_bytes)} of {capacity} ({use.name})"


def _speed(launch: Launch) -> str:
    speed = launch.plan.speed
    if speed is None:
        return "unknown, since a bandwidth of the machine is not known"
    return (
        f"prefill {_rate(speed.prefill)}, decode {_rate(speed.decode)}, with {speed.depth:,} tokens in the context "
        "(nine times of ten within the brackets)"
    )


def _rate(interval: Interval | None) -> str:
    return "unknown" if interval is None else f"{interval} tokens/s"


def _one_line(line: str) -> str:
    """Return ``line`` with nothing in it that could end a comment: names in a model's file are anybody's words."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in line)
