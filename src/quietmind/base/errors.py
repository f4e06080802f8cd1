"""The error tree. Every failure a person can meet is one of these, and its message is one line that says
what was read, what is wrong and what to do. Adapters translate their backend's errors into these; nothing else
may cross a room.
"""

from __future__ import annotations


class QuietmindError(Exception):
    """Root of the tree. ``exit_code`` is what the command line ends with.

    The message is one line, whatever a backend or a file name put into it.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class UsageError(QuietmindError):
    """The request itself makes no sense: a negative context, an unknown KV type, an empty question."""

    exit_code = 2


# Notes and the archive -----------------------------------------------------------------------------------


class NotesError(QuietmindError):
    """A folder or file of notes could not be read."""


class ReaderAway(NotesError):
    """What reads files of a format did not start, or was ended from outside: the file is not at fault."""


class WorkspaceError(QuietmindError):
    """The workspace folder or its database cannot be used."""


class NothingIndexed(WorkspaceError):
    """The workspace holds no notes yet."""


class ArchiveLocked(WorkspaceError):
    """Another process holds the database for longer than we are willing to wait."""


class ArchiveDamaged(WorkspaceError):
    """The database file is not one of ours, comes from a newer version, or fails its integrity check."""


class DiskFull(WorkspaceError):
    """A write found no space. What was committed before it stays."""


class IndexAway(WorkspaceError):
    """The server that holds a copy of the index does not answer, not as one would, or lacks the copy."""


# Models --------------------------------------------------------------------------------------------------


class ModelError(QuietmindError):
    """Anything about a model's files."""


class ModelNotFound(ModelError):
    """No file answers to the name that was given."""


class ModelFileDamaged(ModelError):
    """A model file contradicts itself or ends too early. Nothing of it is used."""


class ModelNotUnderstood(ModelError):
    """A well-formed file of an architecture, type or version that this program has no arithmetic for."""


class DownloadFailed(ModelError):
    """Weights could not be fetched, or what arrived has the wrong checksum."""


class DoesNotFit(ModelError):
    """The plan says that the model takes more memory than the machine has. Carries the rendered ledger."""

    def __init__(self, message: str, ledger: str = "") -> None:
        super().__init__(message)
        self.ledger = ledger


# Snapshots -----------------------------------------------------------------------------------------------


class SnapshotError(QuietmindError):
    """The store of snapshots cannot be used: a folder that is not writable, a snapshot that is not there."""


class NoRoomForSnapshot(SnapshotError):
    """The budget of the store leaves no room for this snapshot; a smaller one may still find some."""


class SnapshotDamaged(SnapshotError):
    """A stored snapshot is not what was written, or was never written whole. Nothing of it is used."""


class SnapshotForeign(SnapshotError):
    """A stored snapshot belongs to another model, tokenizer, template, engine or setting."""


class SnapshotNotUnderstood(SnapshotError):
    """A saved cache has a form or holds values that a lossy codec has no arithmetic for; it can be kept losslessly."""


# Engines -------------------------------------------------------------------------------------------------


class EngineError(QuietmindError):
    """Root of everything that a running model can do wrong."""


class EngineMissing(EngineError):
    """The engine is not installed; the message says how to install it."""


class EngineStartFailed(EngineError):
    """The child ended, or did not become healthy in time, before its first request."""


class EngineCrashed(EngineError):
    """The child ended while it was in use."""


class EngineOutOfMemory(EngineCrashed):
    """The child ended because memory ran out, the machine's or an accelerator's. A smaller plan may run."""


class EngineGivenUp(EngineError):
    """The child failed again and again and is not started any more. Carries the last lines of its log."""

    def __init__(self, message: str, *, log: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.log = log


class OutOfMemoryAtStart(EngineStartFailed, EngineOutOfMemory):
    """Memory ran out before the first request: a failed start to whoever waits, whoever can plan smaller does."""


class EngineHung(EngineError):
    """The child lives but has produced nothing for longer than the limit; it has been ended."""


class EngineTooOld(EngineError):
    """The installed version of an engine lacks a flag that the plan needs; the message names both."""


class EngineUnreachable(EngineError):
    """An address that we do not run ourselves does not answer, or not as an engine would."""


class AddressInUse(EngineError):
    """Something else listens on the address that was asked for."""


class EngineRefused(EngineError):
    """The engine answered a request with an error of its own."""


class LineFull(EngineRefused):
    """So many requests wait for the engine that one more is not taken."""


class Cancelled(EngineError):
    """Whoever asked no longer wants the answer. Nothing is wrong with the engine."""


class ContextOverflow(EngineError):
    """A request needs more tokens than the context holds. Says both numbers."""

    def __init__(self, message: str, *, needed: int, context: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.context = context
