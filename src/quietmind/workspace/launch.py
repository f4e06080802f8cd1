"""From a model's name to a running engine: found, planned, refused or started as planned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from quietmind.base.errors import DoesNotFit
from quietmind.base.units import format_bytes
from quietmind.engine.llamacpp import LlamaCpp, LlamaCppOptions
from quietmind.engine.port import Engine
from quietmind.machine.probe import probe
from quietmind.model.gguf import read_card
from quietmind.model.locate import locate
from quietmind.plan.plan import Ask, Plan, plan
from quietmind.plan.render import render


def plan_model(name: str, ask: Ask) -> tuple[Plan, Path]:
    """Return the plan of the model that answers to ``name`` on this machine, and its file.

    Raises ModelNotFound, ModelFileDamaged, ModelNotUnderstood, or UsageError for an ask that makes no sense.
    """
    path = locate(name)
    return plan(probe(), read_card(path), ask), path


def launch(name: str, ask: Ask, logs: Path) -> Engine:
    """Start the model that answers to ``name`` as planned. Raises what plan_model raises, DoesNotFit, EngineError."""
    planned, path = plan_model(name, replace(ask, gpu_layers=0))  # the wheel's engine computes on the processor alone
    if planned.verdict == "does not fit":
        use = planned.devices[0]  # the host
        raise DoesNotFit(
            f"{planned.model} takes {format_bytes(use.needed_bytes)} at a context of {planned.context:,}, this machine "
            f"has {format_bytes(use.capacity_bytes or 0)}; choose a smaller model, a smaller --context or --kv q8_0",
            ledger=render(planned),
        )
    options = LlamaCppOptions(
        model_path=path,
        context=planned.context,
        kv_type=planned.kv_type,
        threads=planned.threads,
        micro_batch=planned.micro_batch,
    )
    return LlamaCpp.start(options, logs)
