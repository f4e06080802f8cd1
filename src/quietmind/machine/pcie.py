"""What a PCI Express connection carries at best, in one direction."""

from __future__ import annotations

# Generation -> bytes a second and lane: transfers x payload share of the line code / 8 bits.
# PCI-SIG base specifications: 8b/10b in 1.0 and 2.0, 128b/130b from 3.0, 242 of 256 bytes of a flit in 6.0.
_LANE = {
    1: 2.5e9 * 8 / 10 / 8,
    2: 5e9 * 8 / 10 / 8,
    3: 8e9 * 128 / 130 / 8,
    4: 16e9 * 128 / 130 / 8,
    5: 32e9 * 128 / 130 / 8,
    6: 64e9 * 242 / 256 / 8,
}
_GENERATION = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}  # by GT/s


def pcie_bandwidth(generation: int | None, lanes: int | None) -> float | None:
    """Return bytes a second in one direction; None for what is not known."""
    if generation not in _LANE or not lanes or not 1 <= lanes <= 32:
        return None
    return _LANE[generation] * lanes


def pcie_generation(speed: str) -> int | None:
    """Return the generation from what sysfs says: ``32.0 GT/s PCIe``, ``8 GT/s``."""
    number, _, unit = speed.strip().partition(" ")
    try:
        return _GENERATION.get(float(number)) if unit.startswith("GT/s") else None
    except ValueError:
        return None
