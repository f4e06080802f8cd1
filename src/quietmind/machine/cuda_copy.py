"""Measures the way from memory to one CUDA device: ``python -m quietmind.machine.cuda_copy INDEX``.

Prints bytes a second, or ends with 1 and the reason. Calls the driver by ctypes, which needs no CUDA toolkit. What it
takes is given back by its end. Source: NVIDIA's CUDA driver API reference.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import time

from quietmind.base.units import MIB

_LIBRARY = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"
_BYTES = 256 * MIB
_ROUNDS = 5


def copy_rate(index: int, library: str = _LIBRARY) -> float:
    """Return bytes a second from pinned memory to the GPU, the best of five copies of 256 MiB.

    Raises OSError without a driver, RuntimeError with the call that failed and the driver's number for why.
    """
    cuda = ctypes.CDLL(library)

    def call(function: str, *arguments: object) -> None:
        result = int(getattr(cuda, function)(*arguments))
        if result != 0:
            raise RuntimeError(f"{function} failed with CUDA error {result}")

    device, context = ctypes.c_int(), ctypes.c_void_p()
    on_device, on_host = ctypes.c_uint64(), ctypes.c_void_p()
    size = ctypes.c_size_t(_BYTES)
    call("cuInit", ctypes.c_uint(0))
    call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(index))
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)
    call("cuMemAlloc_v2", ctypes.byref(on_device), size)
    call("cuMemAllocHost_v2", ctypes.byref(on_host), size)  # pinned: pageable memory is copied twice
    ctypes.memset(on_host, 1, _BYTES)
    best = 0.0
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        call("cuMemcpyHtoD_v2", on_device, on_host, size)
        best = max(best, _BYTES / (time.perf_counter() - began))
    return best


if __name__ == "__main__":
    try:
        rate = copy_rate(int(sys.argv[1]))
    except (IndexError, ValueError, OSError, AttributeError, RuntimeError) as error:
        sys.exit(f"cuda_copy: {error}")
    sys.stdout.write(f"{rate:.0f}\n")
