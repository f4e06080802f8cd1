"""Where each token of a stretch of text has stood before: what the caches hold of it there is much like what comes.

What the layers make of a token depends first on which it is and which it follows, the deeper the layer the less. So
the last places count at which it followed the same token, or, where there are none, those at which it stood at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

MOST_PLACES = 4
STATES = 1 + 2 * MOST_PLACES
"""What is known of a token: no place, one to MOST_PLACES where it stood, as many where it followed the same."""


@dataclass(frozen=True)
class Places:
    """Of each cell of a stretch the state, and the cells of the stretch in which its token has stood before.

    ``states`` [cells]; of ``before`` [cells, MOST_PLACES] in each row as many as ``counts`` [cells] says.
    """

    states: NDArray[np.intp]
    before: NDArray[np.intp]

    @property
    def counts(self) -> NDArray[np.intp]:
        """How many places each cell has, by its state."""
        return np.where(self.states > 0, (self.states - 1) % MOST_PLACES + 1, 0)

    @classmethod
    def nowhere(cls, cells: int) -> Self:
        """Return what holds where no token is known."""
        return cls(np.zeros(cells, np.intp), np.zeros((cells, MOST_PLACES), np.intp))

    @classmethod
    def of(cls, tokens: Sequence[int], positions: Sequence[int]) -> Self:
        """Return the places of cells at these ``positions`` of a text of ``tokens``, in which all need not be listed.

        A token that is not has no place.
        """
        places = cls.nowhere(len(positions))
        seen = dict[tuple[int, ...], list[int]]()
        for cell, position in enumerate(positions):
            for back in (0, 1):
                if back <= position < len(tokens):
                    same = seen.setdefault(tuple(tokens[position - back : position + 1]), [])
                    if same:
                        last = same[-MOST_PLACES:]
                        places.states[cell] = back * MOST_PLACES + len(last)
                        places.before[cell, : len(last)] = last
                    same.append(cell)
        return places
