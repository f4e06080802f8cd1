"""The codecs that benchmarks/snapshot_codecs.py compares, what one makes of a cache, and a row of its results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quietmind.base.errors import UsageError
from quietmind.kvstore.arrays import layout_of
from quietmind.kvstore.codec.exact import Exact
from quietmind.kvstore.codec.perchannel import LEVELS, Level, PerChannel
from quietmind.kvstore.codec.port import Codec
from quietmind.kvstore.rotation import Rotation

if TYPE_CHECKING:
    from quietmind.kvstore.basis import Basis

ROUNDS = 2  # of which the quicker one counts: other work of the machine only ever slows one down

# What a row always says in the last line, also where it was not measured.
_SUMMARY = {
    *("ratio", "bits_per_value", "kl_mean", "kl_worst", "needles", "needles_right", "needles_right_exact"),
    *("encode_mb_s", "decode_mb_s"),
}


@dataclass(frozen=True)
class Entry:
    """A codec at one level: a line of the table."""

    name: str
    level: str
    codec: Codec

    @property
    def title(self) -> str:
        """Name and level, for people."""
        return f"{self.name} {self.level}".strip()


@dataclass(frozen=True)
class Damage:
    """How far the next tokens' probabilities are from those with the exact cache: KL divergence, in nats.

    Over ``positions`` places, of which some are answers to questions and the others text that goes on. In
    ``answers_kept`` answers every word is still the likeliest.
    """

    mean: float
    worst: float
    answers_mean: float
    text_mean: float
    positions: int
    answers_kept: int


@dataclass(frozen=True)
class Row:
    """What was measured of a codec, or of a peer, at one context. None: not measured, or it does not apply.

    ``ratio`` and ``bits_per_value`` count every byte that is stored against K and V as 16-bit floats. Speeds are in
    MB of what comes out a second. ``first_token_s`` is the time from the stored file to the first token of an answer,
    ``encode_of_prefill`` what encoding takes of the time that reading took. ``lost_by`` says of each lost answer by how
    many nats the exact cache preferred its token to any other where it was least sure. ``text`` is the folder of the
    pages.
    """

    name: str
    level: str
    tokens: int
    ratio: float | None = None
    bits_per_value: float | None = None
    bytes_per_token: float | None = None
    kl_mean: float | None = None
    kl_worst: float | None = None
    kl_answers: float | None = None
    kl_text: float | None = None
    kl_positions: int | None = None
    engine_kl_mean: float | None = None
    engine_kl_worst: float | None = None
    answers_kept: int | None = None
    needles: int | None = None
    needles_right: int | None = None
    needles_right_exact: int | None = None
    needles_lost: int | None = None
    lost_by: tuple[float, ...] | None = None
    continuations: int | None = None
    continuations_identical: int | None = None
    encode_mb_s: float | None = None
    decode_mb_s: float | None = None
    first_token_s: float | None = None
    prefill_s: float | None = None
    encode_of_prefill: float | None = None
    text: str | None = None
    source: str | None = None

    def with_damage(self, damage: Damage) -> Row:
        """Return the row with what the leg in 32-bit floats has measured."""
        return replace(
            self,
            kl_mean=damage.mean,
            kl_worst=damage.worst,
            kl_answers=damage.answers_mean,
            kl_text=damage.text_mean,
            kl_positions=damage.positions,
            answers_kept=damage.answers_kept,
        )

    def line(self) -> str:
        """Return what is known, for people."""
        parts = [f"{self.tokens:>7,} tokens  {f'{self.name} {self.level}':<34}"]
        if self.ratio is not None and self.bits_per_value is not None:
            parts.append(f"{self.ratio:6.2f} x  {self.bits_per_value:6.3f} bits")
        if self.kl_mean is not None:
            parts.append(
                f"KL {self.kl_mean:.5f}, worst {self.kl_worst:.4f} (answers {self.kl_answers:.5f}, text "
                f"{self.kl_text:.5f}, {self.answers_kept} answers kept)"
            )
        if self.needles is not None:
            by = ", ".join(f"{margin:.2f}" for margin in self.lost_by or ())
            parts.append(
                f"{self.needles_right} of {self.needles} right ({self.needles_right_exact} exact, {self.needles_lost} "
                f"lost{f' by {by} nats' if by else ''}), {self.continuations_identical} of {self.continuations} the "
                f"same; engine's KL {self.engine_kl_mean:.5f}"
            )
        if self.encode_mb_s is not None:
            parts.append(f"{self.encode_mb_s:.0f} and {self.decode_mb_s:.0f} MB/s")
        if self.first_token_s is not None:
            parts.append(f"first token {self.first_token_s:.2f} s")
        return "  ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that have a value, numbers with four digits that count, and always those of the summary."""
        return {
            name: float(f"{value:.4g}") if isinstance(value, float) else value
            for name, value in asdict(self).items()
            if value is not None or name in _SUMMARY
        }


def sized(row: Row, size: int, values: int) -> Row:
    """Return ``row`` with what ``size`` bytes for ``values`` values of K and V come to."""
    return replace(row, ratio=2 * values / size, bits_per_value=8 * size / values, bytes_per_token=size / row.tokens)


@dataclass(frozen=True)
class Packed:
    """What a codec has made of a file: ``size`` bytes of blocks, and what it took both ways, in seconds."""

    size: int
    raw: int
    encode_s: float
    decode_s: float
    restored: bytearray

    def timed(self, row: Row) -> Row:
        """Return ``row`` with the speeds."""
        return replace(row, encode_mb_s=self.raw / self.encode_s / 1e6, decode_mb_s=self.raw / self.decode_s / 1e6)


def packed(codec: Codec, file: Path, rounds: int = ROUNDS) -> Packed:
    """Encode and decode ``file``. Raises SnapshotNotUnderstood where the codec does not know what it holds."""
    raw = file.stat().st_size
    restored = bytearray(raw)
    encode_s = decode_s = float("inf")
    blocks: list[bytes] = []
    for _ in range(rounds):
        with file.open("rb") as source:
            began = time.perf_counter()
            blocks = list(codec.encode(source, raw))
            encode_s = min(encode_s, time.perf_counter() - began)
        began = time.perf_counter()
        codec.decode(blocks, memoryview(restored))
        decode_s = min(decode_s, time.perf_counter() - began)
    return Packed(sum(map(len, blocks)), raw, encode_s, decode_s, restored)


def values_in(file: Path) -> int:
    """Return the number of values of K and V that ``file`` holds."""
    with file.open("rb") as source:
        return sum(plane.width * plane.cells for plane in layout_of(source).planes)


def entries(names: Sequence[str], rotation: Rotation | None, basis: Basis | None, finer: int = 0) -> tuple[Entry, ...]:
    """Return the codecs of these ``names`` at their levels; ``transform`` where there is a ``basis``.

    With ``finer``, each lossy one at so many more steps, for the curve of size against damage. Raises UsageError.
    """
    found: list[Entry] = []
    for name in names:
        try:
            found += CODECS[name](rotation, basis, finer)
        except KeyError:
            raise UsageError(f"{name!r} is no codec; choose some of {', '.join(CODECS)}") from None
    return tuple(found)


def _exact(_rotation: Rotation | None, _basis: Basis | None, _finer: int) -> Iterator[Entry]:
    yield Entry("exact", "exact", Exact())


def _perchannel(rotation: Rotation | None, _basis: Basis | None, finer: int) -> Iterator[Entry]:
    for level, steps in LEVELS.items():
        yield Entry("perchannel", level, PerChannel(rotation, steps))
    for factor in factors(finer, 0.5, 4.0):
        steps = Level(LEVELS["4"].key_step * factor, LEVELS["4"].value_step * factor)
        yield Entry("perchannel", f"4 x {factor:.2f}", PerChannel(rotation, steps))


def _transform(_rotation: Rotation | None, basis: Basis | None, finer: int) -> Iterator[Entry]:
    if basis is None:
        return
    from quietmind.kvstore.codec.transform import Transform

    for level, step in basis.steps.items():
        yield Entry("transform", level, Transform(basis, step))
    for factor in factors(finer, 0.75, 6.0):  # the first is what the check of a notebook takes next
        yield Entry("transform", f"near x {factor:.2f}", Transform(basis, basis.steps["near"] * factor))


def factors(count: int, least: float, most: float) -> list[float]:
    """Return ``count`` factors of a step size, from ``least`` to ``most`` at equal ratios."""
    return [least * (most / least) ** (number / max(count - 1, 1)) for number in range(count)]


# A codec is one entry here: its name, and what makes it at each of its levels.
CODECS: dict[str, Callable[[Rotation | None, Basis | None, int], Iterable[Entry]]] = {
    "exact": _exact,
    "perchannel": _perchannel,
    "transform": _transform,
}


# What each level should show: of the prototypes in docs/log.md.
PREDICTED = {
    "exact exact": "1.2 times smaller, nothing changes",
    "perchannel 4": "3 to 4 times smaller, KL about 0.0005, every answer as before",
    "perchannel 3": "4 to 5 times smaller, KL about 0.001, nearly every answer as before",
    "transform near": "at least 10 times smaller, KL at most 0.0005, every answer as before",
    "transform small": "at least 20 times smaller, KL at most 0.005, at least 95 % of the answers as before",
    "llama.cpp q8_0": "1.9 times smaller, KL below 0.001, every answer as before",
    "llama.cpp q4_0": "3.6 times smaller, KL above 0.003, some answers lost",
    "last bits": "not smaller; answers that hang on a hair are lost",
    "zstd 3": "1.1 times smaller, nothing changes",
    "QuantizedCache": "3.6 times smaller at 4 bits, 6.4 at 2; KL above 0.1, most answers lost at 2 bits",
    "KVQuant recipe": "4.8 times smaller at 3 bits, KL about 0.01",
    "KVTC recipe": "9 to 20 times smaller, KL of 0.005 and more",
}
_QUANTIZED = {"quanto", "hqq"}  # the peers that QuantizedCache keeps its numbers with


def predicted(codecs: Sequence[str], peers: Sequence[str]) -> dict[str, str]:
    """Return what each of the codecs and peers that are tried should show, by its title."""
    tried = {*codecs, *peers, "last", "zstd"} | ({"QuantizedCache"} if _QUANTIZED & set(peers) else set())
    return {title: what for title, what in PREDICTED.items() if title.split()[0] in tried}
