"""What a mixture of experts holds, and how little of it a token reads: the same model at 1, 2, 4, 8, 16 experts.

Using more experts changes what is read for each token, never what is held: every expert has to be there, because the
router chooses anew for each token and layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from quietmind.base.units import GIB, format_bytes
from quietmind.model.card import ModelCard, Tensor

USED = (1, 2, 4, 8, 16)
GPUS = (2, 4, 8)
_BAR = 50  # characters of the chart that stand for all that is held

_EMBEDDING = "token_embd.weight"


@dataclass(frozen=True)
class AtWork:
    """A model that uses ``experts_used`` experts in each layer.

    ``parameters`` are all but those of the experts that are not chosen, as publishers count ("A3B"): the embedding
    is in. ``bytes_read`` of the weights are read to decode one token: of the embedding that is one row.
    """

    experts_used: int
    parameters: int
    bytes_read: int


@dataclass(frozen=True)
class Division:
    """The experts of every layer dealt out to ``gpus`` devices (expert parallelism, as vLLM and SGLang do it).

    Each gets ``experts_each``, and ``remainder`` of them one more. ``expert_bytes`` are those of the fullest device,
    ``bytes`` with everything that is no expert copied to each. ``layers`` is the other way, llama.cpp's, which keeps
    a layer's experts together: the most layers that one device gets.
    """

    gpus: int
    experts_each: int
    remainder: int
    expert_bytes: int
    bytes: int
    layers: int


@dataclass(frozen=True)
class Experts:
    """The facts of a model's experts. ``at_work`` and ``divisions`` are empty for a dense model."""

    model: str
    quantization: str | None
    layers: int
    expert_layers: int
    experts: int
    experts_used: int
    parameters: int
    weight_bytes: int
    expert_parameters: int
    expert_bytes: int
    bytes_read_dense: int
    at_work: tuple[AtWork, ...]
    divisions: tuple[Division, ...]


def is_expert(tensor: Tensor) -> bool:
    """Whether a tensor holds routed experts. GGUF stacks a layer's experts; the last dimension counts them."""
    return "_exps." in tensor.name


def experts_of(card: ModelCard) -> Experts:
    """Return the facts of ``card``'s experts, from its tensor table."""
    routed = [tensor for tensor in card.tensors if is_expert(tensor)]
    expert_parameters = sum(prod(tensor.shape) for tensor in routed)
    expert_bytes = sum(tensor.bytes for tensor in routed)
    counts = sorted({*USED, card.experts_used}) if card.experts else []
    return Experts(
        model=card.name,
        quantization=card.quantization,
        layers=card.layers,
        expert_layers=len({tensor.name.split(".")[1] for tensor in routed}),
        experts=card.experts,
        experts_used=card.experts_used,
        parameters=card.parameters,
        weight_bytes=card.weight_bytes,
        expert_parameters=expert_parameters,
        expert_bytes=expert_bytes,
        bytes_read_dense=_read_always(card),
        at_work=tuple(
            AtWork(
                used,
                card.parameters - expert_parameters + expert_parameters * used // card.experts,
                bytes_read(card, used),
            )
            for used in counts
            if used <= card.experts
        ),
        divisions=tuple(_division(card, gpus) for gpus in GPUS) if card.experts else (),
    )


def bytes_read(card: ModelCard, used: int) -> int:
    """Return the bytes of weights that decoding one token reads with ``used`` experts in each layer."""
    chosen = sum(
        tensor.bytes  # all experts of a layer lie in one tensor
        // card.experts  # of which one
        * used  # is read for each that the router chose
        for tensor in card.tensors
        if is_expert(tensor)
    )
    return _read_always(card) + chosen


def _read_always(card: ModelCard) -> int:
    """Return the bytes that every token reads: all that is no expert, and of the embedding one row unless it is tied.

    A tied embedding is also the output projection, which is read whole.
    """
    total = 0
    for tensor in card.tensors:
        if is_expert(tensor):
            continue
        one_row = tensor.name == _EMBEDDING and not card.tied_output
        total += tensor.bytes // tensor.shape[1] if one_row else tensor.bytes
    return total


def _division(card: ModelCard, gpus: int) -> Division:
    each, remainder = divmod(card.experts, gpus)
    fullest = each + (1 if remainder else 0)
    routed = [tensor for tensor in card.tensors if is_expert(tensor)]
    expert_bytes = sum(tensor.bytes // card.experts * fullest for tensor in routed)
    rest = card.weight_bytes - sum(tensor.bytes for tensor in routed)
    return Division(gpus, each, remainder, expert_bytes, rest + expert_bytes, -(-card.layers // gpus))


def render_experts(facts: Experts) -> str:
    """Return the facts as text. A dense model is one line."""
    name = facts.model if facts.quantization is None else f"{facts.model} {facts.quantization}"
    if not facts.experts:
        return (
            f"{name}: dense, no experts: every token reads the same {format_bytes(facts.bytes_read_dense)} of its "
            f"{format_bytes(facts.weight_bytes)}, {facts.parameters / 1e9:,.1f} billion parameters"
        )
    return "\n".join(
        [
            f"{name}: {facts.experts} experts in each of {facts.expert_layers} of {facts.layers} layers, "
            f"trained with {facts.experts_used} at work",
            f"held whatever the number at work: {facts.parameters / 1e9:,.2f} billion parameters, "
            f"{format_bytes(facts.weight_bytes)}, of which experts {format_bytes(facts.expert_bytes)}",
            "",
            *_at_work_table(facts),
            "",
            "memory held (the whole bar) and read for each token (#):",
            *_chart(facts),
            "",
            *_division_table(facts),
        ]
    )


def _at_work_table(facts: Experts) -> list[str]:
    lines = [f"{'experts':>9}  {'active':>9}  {'of the model':>12}  {'read per token':>14}  {'of the weights':>14}"]
    for row in facts.at_work:
        mark = "*" if row.experts_used == facts.experts_used else " "
        lines.append(
            f"{row.experts_used:>8}{mark}  {row.parameters / 1e9:>7,.2f} B  {row.parameters / facts.parameters:>12.1%}"
            f"  {format_bytes(row.bytes_read):>14}  {row.bytes_read / facts.weight_bytes:>14.1%}"
        )
    return [*lines, "* as trained; another number costs or buys speed, and quality only a test can tell"]


def _chart(facts: Experts) -> list[str]:
    lines = []
    for row in facts.at_work:
        read = max(1, round(_BAR * row.bytes_read / facts.weight_bytes))
        shown = f"{row.bytes_read / GIB:.1f} of {facts.weight_bytes / GIB:.1f} GiB"
        lines.append(f"{row.experts_used:>8}  |{'#' * read}{'.' * (_BAR - read)}|  {shown}")
    return lines


def _division_table(facts: Experts) -> list[str]:
    lines = [
        "dealt out over GPUs (expert parallel: vLLM, SGLang; the rest copied to each), and by layers (llama.cpp):",
        f"{'GPUs':>9}  {'experts each':>16}  {'their bytes':>11}  {'with the rest':>13}  {'layers each':>11}",
    ]
    for division in facts.divisions:
        each = str(division.experts_each)
        if division.remainder:
            each = f"{division.experts_each}, {division.remainder} have {division.experts_each + 1}"
        lines.append(
            f"{division.gpus:>9}  {each:>16}  {format_bytes(division.expert_bytes):>11}  "
            f"{format_bytes(division.bytes):>13}  {division.layers:>11}"
        )
    return lines


def experts_to_json(facts: Experts) -> dict[str, Any]:
    """Return the facts as JSON-ready values; shares are between 0 and 1."""
    return {
        "model": facts.model,
        "quantization": facts.quantization,
        "layers": facts.layers,
        "expert_layers": facts.expert_layers,
        "experts": facts.experts,
        "experts_used": facts.experts_used,
        "parameters": facts.parameters,
        "weight_bytes": facts.weight_bytes,
        "expert_parameters": facts.expert_parameters,
        "expert_bytes": facts.expert_bytes,
        "bytes_read_per_token_dense": facts.bytes_read_dense,
        "at_work": [
            {
                "experts_used": row.experts_used,
                "parameters": row.parameters,
                "parameters_share": row.parameters / facts.parameters,
                "bytes_read_per_token": row.bytes_read,
                "bytes_share": row.bytes_read / facts.weight_bytes,
            }
            for row in facts.at_work
        ],
        "divisions": [
            {
                "gpus": division.gpus,
                "experts_each": division.experts_each,
                "remainder": division.remainder,
                "expert_bytes_fullest": division.expert_bytes,
                "bytes_fullest": division.bytes,
                "layers_fullest": division.layers,
            }
            for division in facts.divisions
        ],
    }
