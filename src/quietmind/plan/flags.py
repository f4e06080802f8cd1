"""The flags of llama.cpp that reproduce a plan, as words of a command line.

Names and meanings: common/arg.cpp and src/llama-model.cpp of llama.cpp, autumn 2026. Everything that the engine would
otherwise decide by itself (``-fit``, the prompt cache, the number of slots) is said, because the plan counts on it.
"""

from __future__ import annotations

from collections.abc import Iterator

from quietmind.machine.machine import Machine
from quietmind.model.card import LayerKind, ModelCard
from quietmind.plan.ask import Run
from quietmind.plan.placement import Placement

_UNCUTTABLE = frozenset({LayerKind.SLIDING, LayerKind.LINEAR})

_ELSEWHERE = ("hf:", "http:", "https:")  # names that model.remote reads

_DEVICE_NAMES = {"cuda": "CUDA", "rocm": "ROCm", "metal": "MTL"}


def model_word(card: ModelCard) -> str:
    """Return what the engine is to open: the file, of a model on a server its name once it has been fetched."""
    return card.path.name if str(card.path).startswith(_ELSEWHERE) else str(card.path)


def engine_flags(machine: Machine, card: ModelCard, placement: Placement, run: Run) -> tuple[str, ...]:
    """Return the words after ``llama-server``. Each word is one argument; none needs a shell's quotes."""
    return (
        *("-m", model_word(card)),
        *("-c", str(run.context * run.sequences)),  # the engine divides it among the sequences
        *("-b", str(run.batch)),
        *("-ub", str(run.micro_batch)),
        *("-ctk", run.kind.name),
        *("-ctv", run.kind.name),
        *("-fa", "on" if run.flash_attention else "off"),
        *(("-t", str(run.threads)) if run.threads else ()),
        *("-np", str(run.sequences)),
        *_device_flags(machine, placement),
        *_expert_flags(machine, placement),
        *_override_flags(card, run),
        *("--cache-ram", "0"),  # its default of 8 GiB is in no plan
        # Nor are the 32 copies a slot that it keeps of a state which cannot be cut back to an earlier token.
        *(("--ctx-checkpoints", "0") if _UNCUTTABLE.intersection(card.layer_kinds) else ()),
        *("-fit", "off"),  # the plan has fitted it
    )


def _device_flags(machine: Machine, placement: Placement) -> Iterator[str]:
    """Yield how many layers go to which accelerators, and whether the KV cache follows them."""
    owners = [key for key in (*placement.dense, placement.output) if _fast(machine, key)]
    used = [device for device in machine.accelerators if device.key in owners]
    if not used:
        yield from ("-ngl", "0")
        if machine.accelerators:
            yield from ("-dev", "none")  # else large batches would still be multiplied there
        return
    yield from ("-ngl", str(len(owners)))
    if len(used) < len(machine.accelerators):
        names = (f"{_DEVICE_NAMES[device.kind]}{device.key.removeprefix(device.kind) or 0}" for device in used)
        yield from ("-dev", ",".join(names))
    if len(used) > 1:
        # Whole numbers of layers, the output being one: the engine's division of them is exact.
        yield from ("-sm", "layer", "-ts", ",".join(str(owners.count(device.key)) for device in used))
    if any(
        _fast(machine, dense) and not _fast(machine, kv)
        for dense, kv in zip(placement.dense, placement.kv, strict=True)
    ):
        yield "--no-kv-offload"


def _expert_flags(machine: Machine, placement: Placement) -> Iterator[str]:
    """Yield which layers' experts stay on the host while the rest of the layer does not."""
    pairs = list(zip(placement.dense, placement.experts, strict=True))
    held = [
        layer
        for layer, (dense, experts) in enumerate(pairs)
        if experts and _fast(machine, dense) and not _fast(machine, experts)
    ]
    if not held:
        return
    count = held[-1] + 1
    if any(_fast(machine, experts) for _, experts in pairs[:count]):
        layers = "|".join(str(layer) for layer in held)
        yield from ("-ot", rf"blk\.({layers})\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU")
    else:
        yield from ("--n-cpu-moe", str(count))


def _override_flags(card: ModelCard, run: Run) -> Iterator[str]:
    """Yield what is told otherwise than the file says: the experts used, and positions past the native context."""
    overrides = []
    if run.experts_used is not None:
        overrides.append(f"{card.arch}.expert_used_count=int:{run.experts_used}")
    if run.yarn is not None:
        yield from ("--rope-scaling", "yarn", "--rope-scale", f"{run.yarn.factor:g}")
        yield from ("--yarn-orig-ctx", str(run.yarn.original))
        overrides.append(f"{card.arch}.context_length=int:{run.context}")  # the server caps a slot at it
    if overrides:
        yield from ("--override-kv", ",".join(overrides))  # of a repeated option only the last would count


def _fast(machine: Machine, key: str) -> bool:
    return any(device.key == key for device in machine.accelerators)
