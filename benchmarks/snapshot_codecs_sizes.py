"""What the measured sizes and speeds come to for larger models and archives: for benchmarks/snapshot_codecs.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from snapshot_codecs_table import Row

from quietmind.workspace.levels import BOUNDS

ARCHIVE_TOKENS = 10_000_000  # 20,000 pages
LONG_CONTEXT = 131_072
DISK_BYTES_PER_S = 5e9  # an NVMe of the fourth generation, read in large pieces

# Layers x heads of K and V x length of a head, twice: the published configurations.
VALUES_PER_TOKEN = {"Qwen3-30B-A3B": 48 * 4 * 128 * 2, "Qwen3-235B-A22B": 94 * 4 * 128 * 2}


def archive_bytes(values: int, bits_per_value: float, tokens: int = ARCHIVE_TOKENS) -> float:
    """Return the bytes of ``tokens`` tokens with so many values of K and V each."""
    return tokens * values * bits_per_value / 8


def first_token_s(values: int, row: Row, load_bytes_per_s: float, tokens: int = LONG_CONTEXT) -> float:
    """Return the seconds from a stored file to an engine that holds its context, before the question itself.

    The file is read from the disk, decoded, and loaded by the engine, one after the other. ``decode_mb_s`` is of this
    machine and holds for any model: each value takes the same operations, as groups of layers have one size.
    """
    assert row.bits_per_value is not None
    assert row.decode_mb_s is not None
    raw = archive_bytes(values, 16, tokens)
    read = archive_bytes(values, row.bits_per_value, tokens) / DISK_BYTES_PER_S
    return read + raw / (row.decode_mb_s * 1e6) + raw / load_bytes_per_s


def arithmetic(rows: Sequence[Row], load_bytes_per_s: float) -> list[dict[str, Any]]:
    """Print what the codecs' rows come to for each model, and return it."""
    return [_printed(each) for row in rows for each in _of(row, load_bytes_per_s)]


# What levels promise: so many times smaller at least, with this share of the answers that the exact cache gives; and a
# mean KL over all places, answers and text, of at most their bound.
TARGETS = {"near": (10.0, 1.0), "small": (20.0, 0.95)}
_UNLIKE = 0.5  # of the ratio, where the text is unlike what was calibrated on


def targets(rows: Sequence[Row], unlike: str | None) -> list[dict[str, Any]]:
    """Print which rows of ``transform`` keep what their levels promise, and return it; ``unlike`` names a text."""
    found = []
    for row in rows:
        if row.name != "transform" or row.level not in TARGETS or row.ratio is None or row.needles_lost is None:
            continue
        ratio, share = TARGETS[row.level]
        ratio *= _UNLIKE if row.text == unlike else 1.0
        exact = row.needles_right_exact or 0
        kept = (exact - row.needles_lost) / exact if exact else None
        enough = row.ratio >= ratio and kept is not None and kept >= share
        bound = BOUNDS[row.level].kl
        held = enough and (row.kl_mean is None or row.kl_mean <= bound)
        shown = "no needle was right with the exact cache" if kept is None else f"{kept:.0%} of the answers"
        print(
            f"{'held' if held else 'missed':<10} {row.level} on {row.text}, {row.tokens:,} tokens: {row.ratio:.1f} x "
            f"(target {ratio:g}), {shown} (target {share:.0%}), "
            f"{'no KL' if row.kl_mean is None else f'KL {row.kl_mean:.5f}'} (target {bound:g})"
        )
        found.append({"level": row.level, "text": row.text, "tokens": row.tokens, "held": held})
    return found


def _of(row: Row, load_bytes_per_s: float) -> Iterator[dict[str, Any]]:
    if row.bits_per_value is None or row.decode_mb_s is None:
        return
    for model, values in VALUES_PER_TOKEN.items():
        yield {
            "model": model,
            "name": row.name,
            "level": row.level,
            "archive_gb": round(archive_bytes(values, row.bits_per_value) / 1e9, 1),
            "plain_gb": round(archive_bytes(values, 16) / 1e9, 1),
            "decode_mb_s": round(row.decode_mb_s),
            "first_token_s": round(first_token_s(values, row, load_bytes_per_s), 2),
        }


def _printed(found: dict[str, Any]) -> dict[str, Any]:
    print(
        f"{found['model']:<16} {found['name']} {found['level']}: {ARCHIVE_TOKENS:,} tokens take {found['archive_gb']} "
        f"GB ({found['plain_gb']} GB plain); {LONG_CONTEXT:,} tokens are back in {found['first_token_s']} s "
        f"where {found['decode_mb_s']} MB/s are decoded"
    )
    return found
