"""The process that takes hostile files apart: one after the other, each within its share of time and memory.

Reads ``ENDING SIZE`` and that many bytes from its standard input, answers ``ok SIZE`` or ``no SIZE`` and as many bytes
on its standard output: a document, or in words what is wrong with the file. It ends when its input does.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import BinaryIO

from quietmind.base.errors import NotesError
from quietmind.notes.formats import read_here
from quietmind.notes.formats.wire import pack

# Of processor time for one file, and of memory in all. A book of a thousand pages takes a tenth of either.
SECONDS = 60
MEMORY_BYTES = 2 << 30


def main() -> None:
    """Serve until the input ends. Nothing that a library prints gets into the answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for whoever started us, who then ends our input
    answers = os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "r+b") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    serve(sys.stdin.buffer, answers)


def serve(files: BinaryIO, answers: BinaryIO) -> None:
    """Answer one file of ``files`` after the other."""
    while header := files.readline():
        ending, size = header.decode("ascii").split()
        _confine()
        word, answer = _answer(files.read(int(size)), ending)
        answers.write(f"{word} {len(answer)}\n".encode("ascii"))
        answers.write(answer)
        answers.flush()


def _answer(data: bytes, ending: str) -> tuple[str, bytes]:
    try:
        return "ok", pack(read_here(data, ending))
    except NotesError as error:
        return "no", str(error).encode("utf-8", "replace")
    except MemoryError:
        return "no", b"takes more memory to read than a note may"
    except RecursionError:
        return "no", b"is nested deeper than a note may be"
    except Exception as error:
        return "no", f"is damaged ({type(error).__name__} while it was read)".encode("utf-8", "replace")


def _confine() -> None:
    """Have the system end this process when it takes more than a file may, and write nothing, not even a core."""
    with suppress(ImportError, OSError, ValueError):  # no such limits on Windows
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = int(used.ru_utime + used.ru_stime)
        limits = {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_FSIZE: 0,
            resource.RLIMIT_AS: MEMORY_BYTES,
            resource.RLIMIT_CPU: spent + SECONDS,
        }
        for limit, value in limits.items():
            _, hard = resource.getrlimit(limit)
            most = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (most, hard))


if __name__ == "__main__":
    main()
