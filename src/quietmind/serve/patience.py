"""How long an engine behind the gateway may be silent before it counts as hung."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from quietmind.engine.adapters import prefill_patience
from quietmind.plan.plan import Plan

# How much slower than the slowest that was planned decoding may be.
_SLACK = 4.0


@dataclass(frozen=True)
class Patience:
    """Seconds of silence; None: however long it takes, where nothing is known of the speed.

    ``first`` runs until the first piece of a stream, ``between`` from one piece to the next, and ``whole`` until an
    answer that comes in one piece. A silent server has no other sign of life than these: its health is answered by
    a thread that goes on when the model does not.
    """

    first: float | None = None
    between: float | None = 300.0
    whole: float | None = None

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """Return what the speeds of ``plan`` allow, with its context full."""
        prefill = plan.speed.prefill if plan.speed is not None else None
        decode = plan.speed.decode if plan.speed is not None else None
        first = prefill_patience(plan) if prefill is not None else None
        whole = None
        if first is not None and decode is not None and decode.low > 0:
            whole = first + _SLACK * plan.context / decode.low
        # Where several are answered at once, the prompt of one may hold up the tokens of another.
        return cls(first, cls.between if plan.sequences == 1 else first, whole)
