"""The products of matrices that the codec ``transform`` is made of, on the processor or an accelerator.

They are most of its work (kvstore/basis.py counts them), and a processor does some 0.15 TFLOP a second a core with
them, an accelerator a hundred times that. So, where PyTorch is installed and a device has room, they are made there in
32 bits, one group of layers after the other; what is multiplied goes over and comes back a piece at a time. The
environment variable ``QUIETMIND_ACCELERATOR=off`` keeps all on the processor.
"""

from __future__ import annotations

import os
import threading
from importlib import metadata
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quietmind.kvstore.basis import Basis
from quietmind.kvstore.floats import Floats
from quietmind.machine.nvidia import read_gpus

SWITCH = "QUIETMIND_ACCELERATOR"

# What is written of a group's components: which are not 0 throughout, and these in steps, float32 [cells, these].
Written = tuple[NDArray[np.intp], Floats]

_CORE_OPERATIONS_PER_S = 150e9  # measured with AVX-512 at 2.3 GHz, matrices of 2,048
_WORTH_S = 10.0  # of a processor: to import PyTorch and to open a device takes up to half of it
_WORKING_BYTES = 4 << 30  # left free of a device's memory: its library's own, the pieces, and some for other programs


class Home(Protocol):
    """Where arrays are multiplied: both kinds of arrays know the operators that ``Products`` needs."""

    failures: tuple[type[Exception], ...]
    """What is raised where the device, and not what it was given, is at fault."""

    def put(self, array: NDArray[Any]) -> Any:
        """Return ``array``, which is contiguous and may be overwritten, as an array of this place."""

    def get(self, array: Any) -> Floats:
        """Return an array of this place as NumPy's."""


class Processor:
    """NumPy's own place."""

    failures: tuple[type[Exception], ...] = ()

    def put(self, array: NDArray[Any]) -> Any:
        """Return ``array`` itself."""
        return array

    def get(self, array: Any) -> Floats:
        """Return ``array`` itself."""
        found: Floats = array
        return found


class Accelerator:
    """A device of PyTorch, by its name: ``cuda:0``, ``mps``, or ``cpu``."""

    failures: tuple[type[Exception], ...] = (RuntimeError,)  # of which those of memory and of the driver are kinds

    def __init__(self, device: str) -> None:
        self._device = device

    def put(self, array: NDArray[Any]) -> Any:
        """Copy ``array`` to the device."""
        import torch

        return torch.from_numpy(array).to(self._device)

    def get(self, array: Any) -> Floats:
        """Copy ``array`` from the device."""
        found: Floats = array.cpu().numpy()
        return found


def home_for(basis: Basis, cells: int) -> Home:
    """Return where to multiply ``cells`` cells in ``basis``: where there is a device with room and it is worth it."""
    entries = sum(group.matrix.size + group.narrow.size + group.widen.size for group in basis.groups)
    seconds = 2.0 * entries * cells / (_CORE_OPERATIONS_PER_S * (os.cpu_count() or 1))
    if os.environ.get(SWITCH) == "off" or seconds < _WORTH_S or not _has_devices():
        return Processor()
    device = _device(4 * entries + _WORKING_BYTES)
    return Processor() if device is None else Accelerator(device)


def _has_devices() -> bool:
    """Say whether PyTorch is installed, and built for more than processors; it is not imported for that."""
    try:
        return not metadata.version("torch").endswith("+cpu")
    except metadata.PackageNotFoundError:
        return False


def _device(room: int) -> str | None:
    """Return the device with the most free memory, if that is at least ``room`` bytes.

    The driver is asked, since PyTorch takes half a GiB of a device to say how much of it is free.
    """
    free = {gpu.uuid: gpu.free_bytes or 0 for gpu in read_gpus()}
    try:
        import torch

        if free and torch.cuda.is_available():
            of_device = [
                free.get(f"GPU-{torch.cuda.get_device_properties(number).uuid}", 0)
                for number in range(torch.cuda.device_count())
            ]
            best = int(np.argmax(of_device))
            return f"cuda:{best}" if of_device[best] >= room else None
        # Its memory is the processor's, which would hold the same.
        return "mps" if torch.backends.mps.is_available() else None
    except (ImportError, OSError, RuntimeError, AttributeError):  # of an installation that does not work
        return None


class Products:
    """What vectors of ``basis`` go through at a ``home``, with components in units of ``step``.

    Arrays that methods call kept or expected are that place's own, float32 [cells, width of a group]. Errors are its
    ``failures``. Several threads may use it.
    """

    def __init__(self, basis: Basis, step: float, home: Home) -> None:
        self._groups, self._step, self._home = basis.groups, step, home
        self._made: dict[int, tuple[Any, ...]] = {}
        self._lock = threading.Lock()

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """What is raised where the place itself fails."""
        return self._home.failures

    def nothing(self, cells: int) -> Any:
        """Return what is kept of no group: [cells, 0]."""
        return self._home.put(np.empty((cells, 0), np.float32))

    def expected(self, number: int, kept: Any) -> Any:
        """Return what a group is expected to be by what is ``kept`` of the group before."""
        _, narrow, widen, _, _ = self._of(number)
        return (kept @ narrow) @ widen

    def components(self, number: int, vectors: Floats, expected: Any) -> Floats:
        """Return the components of ``vectors`` [cells, width], which are overwritten, in steps: [cells, rank]."""
        matrix, _, _, mean, scale = self._of(number)
        found = self._home.put(vectors)
        found -= mean
        found *= scale
        found -= expected
        components = found @ matrix
        components /= self._step
        return self._home.get(components)

    def kept(self, number: int, written: Written, expected: Any) -> Any:
        """Return the weighted vectors that come back of what was ``written``; both are overwritten."""
        matrix = self._of(number)[0]
        used, steps = written
        some = matrix if len(used) == matrix.shape[1] else matrix[:, self._home.put(used)]
        found = self._home.put(steps)
        found *= self._step
        expected += found @ some.T
        return expected

    def vectors(self, number: int, kept: Any) -> Floats:
        """Return the vectors that are ``kept`` weighted: [cells, width]."""
        _, _, _, mean, scale = self._of(number)
        found = kept / scale
        found += mean
        return self._home.get(found)

    def _of(self, number: int) -> tuple[Any, ...]:
        """Return a group's matrix, the two that its expectation goes through, its mean and its scale.

        They are widened to 32 bits, and go to their place, when they are first asked for.
        """
        with self._lock:
            if number not in self._made:
                group = self._groups[number]
                given = (group.matrix, group.narrow, group.widen, group.mean, group.scale)
                self._made[number] = tuple(self._home.put(array.astype(np.float32)) for array in given)
            return self._made[number]
