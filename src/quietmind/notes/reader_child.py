"""A process that reads files for the index: bundles of :class:`Wanted` come in on standard input, what they give goes
out. Ends when its parent does, however that ends.
"""

from __future__ import annotations

import os
import pickle
import sys
from contextlib import suppress

from quietmind.notes.intake import take


def main() -> None:
    """Answer one bundle after the other until there are no more."""
    results = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever prints must not get between the results
    # A parent that was killed reads nothing any more; one that lets go of its reader has closed both.
    with suppress(EOFError, BrokenPipeError):
        while True:
            bundle = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the process that started this one
            pickle.dump([take(wanted) for wanted in bundle], results, pickle.HIGHEST_PROTOCOL)
            results.flush()


if __name__ == "__main__":
    main()
