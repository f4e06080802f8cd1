"""What every adapter checks of the vectors that a model gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quietmind.base.errors import EngineRefused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


def unit(vectors: ArrayLike, count: int, dimensions: int | None, who: str) -> NDArray[np.float32]:
    """Return ``vectors`` as float32 [count, dimensions], each of length 1.

    Raises EngineRefused for another shape, numbers that are none, and a vector of zeros.
    """
    import numpy as np

    try:
        found = np.asarray(vectors, np.float64)  # float64: squares of large float32 stay finite
    except (ValueError, TypeError, OverflowError) as error:
        raise EngineRefused(f"{who} gave vectors that are no numbers ({error}); use another embedder") from error
    wanted = found.shape[1] if dimensions is None and found.ndim == 2 else dimensions
    if found.shape != (count, wanted) or not wanted:
        raise EngineRefused(
            f"{who} gave vectors of the shape {found.shape} for {count} texts of {wanted} numbers; use another embedder"
        )
    lengths = np.sqrt((found * found).sum(axis=1))
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise EngineRefused(f"{who} gave a vector without a direction; use another embedder")
    scaled: NDArray[np.float32] = (found / lengths[:, None]).astype(np.float32)
    return scaled
