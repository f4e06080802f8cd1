"""Where matrices are multiplied: the same comes back from anywhere, and a device that fails costs nothing but time."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quietmind.kvstore.basis import Basis
from quietmind.kvstore.codec import products
from quietmind.kvstore.codec.products import SWITCH, Accelerator, Home, Processor, home_for
from quietmind.kvstore.codec.transform import BLOCK_TOKENS, Transform
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.floats import Floats
from quietmind.kvstore.gathering import Gathering, Sensitivity
from quietmind.kvstore.rotation import Pairs, Rotation
from quietmind.kvstore.slots import parse, rows
from quietmind.machine.nvidia import NvidiaGpu

LAYERS, WIDTH, TOKENS = 4, 32, BLOCK_TOKENS + 150
STEP = 0.3
LONG = 1 << 40  # cells, which would take any processor long


@dataclass(frozen=True)
class Case:
    """A cache, a basis of it in two groups, and what the processor makes of both."""

    slot: bytes
    basis: Basis
    blocks: list[bytes]
    decoded: bytes


@pytest.fixture(scope="module")
def case(made_slot: Callable[..., bytes]) -> Case:
    chance = np.random.default_rng(8)
    hidden = chance.normal(0, 1, (TOKENS, 12)) @ chance.normal(0, 1, (12, LAYERS * 2 * WIDTH))
    both = (hidden + chance.normal(0, 0.1, hidden.shape)).astype(np.float32).reshape(TOKENS, LAYERS, 2, WIDTH)
    slot = made_slot(*(np.ascontiguousarray(both[:, :, part].transpose(1, 0, 2)) for part in range(2)))
    gathering = Gathering(parse(io.BytesIO(slot)), Rotation(Pairs.HALVES, 16, 16, 1e4), most_width=4 * WIDTH)
    gathering.add(io.BytesIO(slot))
    basis = gathering.basis(
        Sensitivity.same(gathering.widths), fingerprint=Fingerprint(*"abcdef"), steps={"near": STEP}
    )
    assert len(basis.groups) == 2
    blocks = encoded(basis, slot, Processor())
    return Case(slot, basis, blocks, decoded(basis, blocks, len(slot), Processor()))


def encoded(basis: Basis, slot: bytes, home: Home) -> list[bytes]:
    return list(Transform(basis, STEP, home).encode(io.BytesIO(slot), len(slot)))


def decoded(basis: Basis, blocks: list[bytes], size: int, home: Home) -> bytes:
    target = bytearray(size)
    Transform(basis, STEP, home).decode(blocks, memoryview(target))
    return bytes(target)


def furthest(one: bytes, other: bytes) -> float:
    layout = parse(io.BytesIO(one))
    return max(float(np.abs(rows(one, plane) - rows(other, plane)).max()) for plane in layout.planes)


class Failing:
    """A device whose memory another program takes after so many arrays."""

    failures: tuple[type[Exception], ...] = (RuntimeError,)

    def __init__(self, after: int) -> None:
        self.left = after

    def put(self, array: NDArray[Any]) -> Any:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("out of memory")
        return array.copy()

    def get(self, array: Any) -> Floats:
        found: Floats = array
        return found


@pytest.mark.parametrize("after", [0, 1, 7, 20, 10_000])
def test_what_a_device_fails_at_the_processor_does(case: Case, after: int) -> None:
    assert encoded(case.basis, case.slot, Failing(after)) == case.blocks
    assert decoded(case.basis, case.blocks, len(case.slot), Failing(after)) == case.decoded


def test_torch_reads_what_the_processor_does(case: Case) -> None:
    pytest.importorskip("torch")
    found = decoded(case.basis, case.blocks, len(case.slot), Accelerator("cpu"))
    # Sums of a few hundred products in another order, and then 16 bits: a number of about 8 may fall to its neighbour.
    assert furthest(case.decoded, found) <= 2 * 2**-7


def test_what_torch_writes_is_as_good(case: Case) -> None:
    pytest.importorskip("torch")
    blocks = encoded(case.basis, case.slot, Accelerator("cpu"))
    assert sum(map(len, blocks)) == pytest.approx(sum(map(len, case.blocks)), rel=0.001)
    found = decoded(case.basis, blocks, len(case.slot), Processor())
    assert furthest(case.slot, found) <= 1.1 * furthest(case.slot, case.decoded)


class TestChoice:
    @pytest.fixture(autouse=True)
    def a_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(SWITCH, raising=False)
        monkeypatch.setattr(metadata, "version", lambda name: {"torch": "2.13.0+cu130"}[name])
        monkeypatch.setattr(products, "_device", lambda room: "cuda:1" if room <= 5 << 30 else None)

    def test_long_work_goes_to_a_device(self, case: Case) -> None:
        assert isinstance(home_for(case.basis, LONG), Accelerator)

    def test_short_work_is_not_worth_it(self, case: Case) -> None:
        assert isinstance(home_for(case.basis, TOKENS), Processor)

    def test_it_can_be_switched_off(self, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(SWITCH, "off")
        assert isinstance(home_for(case.basis, LONG), Processor)

    def test_a_device_without_room_is_left_alone(self, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(products, "_WORKING_BYTES", 5 << 30)
        assert isinstance(home_for(case.basis, LONG), Processor)

    def test_a_build_for_processors_is_not_even_imported(self, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metadata, "version", lambda _: "2.13.0+cpu")
        assert isinstance(home_for(case.basis, LONG), Processor)

    def test_without_torch_the_processor_multiplies(self, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(name: str) -> str:
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "version", missing)
        assert isinstance(home_for(case.basis, LONG), Processor)


class TestDevices:
    """Which device is taken of those that the driver and torch, here a stand-in for it, speak of."""

    @pytest.fixture
    def torch(self, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        uuids = ["aa", "bb"]  # in an order of its own, and without the word that the driver puts before them
        cuda = SimpleNamespace(
            is_available=lambda: True,
            device_count=lambda: len(uuids),
            get_device_properties=lambda number: SimpleNamespace(uuid=uuids[number]),
        )
        mps = SimpleNamespace(is_available=lambda: False)
        made = SimpleNamespace(cuda=cuda, backends=SimpleNamespace(mps=mps))
        monkeypatch.setitem(sys.modules, "torch", made)
        monkeypatch.setattr(
            products, "read_gpus", lambda: (NvidiaGpu("B", "GPU-bb", 80, 70), NvidiaGpu("A", "GPU-aa", 80, 60))
        )
        return made

    def test_the_one_with_the_most_room(self, torch: SimpleNamespace) -> None:
        assert products._device(50) == "cuda:1"

    def test_none_without_room(self, torch: SimpleNamespace) -> None:
        assert products._device(71) is None

    def test_none_that_the_driver_says_nothing_of(
        self, torch: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(products, "read_gpus", lambda: (NvidiaGpu("B"),))
        assert products._device(1) is None

    def test_apples(self, torch: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(products, "read_gpus", tuple)
        assert products._device(1) is None
        torch.backends.mps.is_available = lambda: True
        assert products._device(1) == "mps"

    def test_an_installation_that_does_not_work(self, torch: SimpleNamespace) -> None:
        def broken() -> bool:
            raise RuntimeError("the driver is older than the library")

        torch.cuda.is_available = broken
        assert products._device(1) is None
