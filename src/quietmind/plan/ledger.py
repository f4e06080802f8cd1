"""The ledger of a plan: every byte that a model will take, on which device, for what, and by which formula."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """``bytes`` of ``component`` on ``device``. ``formula`` is what they were multiplied from, for people.

    ``read_per_token`` is another quantity: how many of them decoding one token reads, on average.
    """

    device: str
    component: str
    bytes: int
    formula: str
    read_per_token: int = 0


@dataclass(frozen=True)
class Ledger:
    """Rows in the order in which they are shown."""

    rows: tuple[Row, ...]

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices in order of their first row."""
        return tuple(dict.fromkeys(row.device for row in self.rows))

    def total(self, device: str | None = None) -> int:
        """Return the bytes on ``device``, or on all devices together."""
        return sum(row.bytes for row in self.rows if device in (None, row.device))

    def component(self, prefix: str) -> int:
        """Return the bytes of every row whose component begins with ``prefix``: "weights", "KV cache"."""
        return sum(row.bytes for row in self.rows if row.component.startswith(prefix))

    def prove(self, totals: Mapping[str, int], components: Mapping[str, int]) -> None:
        """Check the rows against sums that were computed another way: by device, and by component.

        Raises AssertionError with the whole equation, because a ledger that does not add up is a bug of ours, never
        of the person's.
        """
        for row in self.rows:
            if row.bytes < 0:
                raise AssertionError(f"{row.device}: {row.component} takes {row.bytes:,} bytes ({row.formula})")
        for device in {*self.devices, *totals}:
            rows = [row for row in self.rows if row.device == device]
            self._compare(f"{device}: needed", totals.get(device, 0), rows)
        for prefix, expected in components.items():
            self._compare(prefix, expected, [row for row in self.rows if row.component.startswith(prefix)])

    @staticmethod
    def _compare(what: str, expected: int, rows: list[Row]) -> None:
        found = sum(row.bytes for row in rows)
        if found != expected:
            terms = " + ".join(f"{row.bytes:,} ({row.component})" for row in rows) or "nothing"
            raise AssertionError(f"{what}: {terms} = {found:,} bytes, not {expected:,} (off by {found - expected:+,})")
