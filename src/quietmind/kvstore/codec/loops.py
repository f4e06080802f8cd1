"""Where the codecs' compiled loops are: with Numba, where that is installed and a cache is large enough to be worth it.

Without them NumPy does the same: of whole numbers to the bit, of others to the last bits of a product. The environment
variable ``QUIETMIND_COMPILED=off`` keeps Numba out.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import threading
from types import ModuleType

from quietmind.kvstore.codec.side_by_side import THREADS

SWITCH = "QUIETMIND_COMPILED"

_WORTH_S = 0.4  # to import Numba, and the loops as they were kept, takes 0.3
_KEPT_BYTES = 3 << 20  # what all of them take where they are kept is about 1.5 MB

_lock = threading.Lock()
_found: ModuleType | None = None
_missing = False


def prepare(saved_s: float) -> None:
    """Have the compiled loops from now on, where they save so many seconds of a core in what is to be done now."""
    global _found, _missing  # noqa: PLW0603 - what is imported is the process's
    if _found is not None or _missing or saved_s / THREADS < _WORTH_S or os.environ.get(SWITCH) == "off":
        return
    with _lock:
        try:
            compiled = importlib.import_module("quietmind.kvstore.codec.compiled")
            _try_to_keep(compiled.pull.stats.cache_path)
            _found = compiled
        except (ImportError, OSError, RuntimeError):  # not installed, or nowhere to keep what is compiled
            _missing = True


def _try_to_keep(folder: str) -> None:
    """Raise OSError where what is compiled cannot be kept: in the midst of a cache, Numba would."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_KEPT_BYTES))


def found() -> ModuleType | None:
    """Return the compiled loops, or None where NumPy has to do."""
    return _found
