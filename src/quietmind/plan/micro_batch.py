"""How many tokens of a prompt are computed together, where the person does not say.

More tokens share what is read once a micro-batch: weights that cross a link most of all (published: 118, 194 and 323
tokens a second at 512, 1,024 and 2,048), then experts that would get a handful of rows each. They take a larger compute
buffer, which may push experts off an accelerator, and an engine can be cancelled, or show that it lives, only between
two of them. So the smallest is chosen that prefills nearly as fast as any, and never one that costs more than a little.
"""

from __future__ import annotations

from collections.abc import Mapping

SIZES = (512, 1024, 2048, 4096)  # the engine's default first

# The smallest size that reaches this share of the fastest prefill will do.
NEARLY_AS_FAST = 0.9

# What decoding keeps of its speed at the least: so much is given for a prefill, whatever the goal. Context and quality
# give nothing, nor does the verdict.
DECODE_KEPT = 0.97

# One micro-batch may take so many seconds, by the middle of the prediction, unless the smallest takes longer itself.
LONGEST_SECONDS = 20.0


def worth_trying(prefill: Mapping[int, float]) -> tuple[int, ...]:
    """Return which sizes are worth a placement of their own, the wanted one first, then ever smaller ones.

    ``prefill`` holds the tokens a second of each size, the engine's default among them, as if all had the same
    placement. Empty where the default is nearly as fast as any.
    """
    default, *larger = sorted(prefill)
    quick = [size for size in larger if size <= LONGEST_SECONDS * prefill[size]]
    fastest = max([prefill[default], *(prefill[size] for size in quick)])
    wanted = next((size for size in [default, *quick] if prefill[size] >= NEARLY_AS_FAST * fastest), default)
    return tuple(
        size for size in reversed(quick) if size <= wanted and prefill[default] < NEARLY_AS_FAST * prefill[size]
    )
