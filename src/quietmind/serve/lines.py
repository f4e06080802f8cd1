"""An event stream on its way through: whole lines go on at once, a line that is not whole yet is held back."""

from __future__ import annotations

_LAST = b"data: [DONE]"
_ERRORS = (b'data: {"error"', b"error:")  # llama.cpp writes the latter form too


class WholeLines:
    """Passes on bytes up to the last line end, so that a stream that breaks off never ends within an event's line."""

    def __init__(self) -> None:
        self._held = b""
        self.finished = False  # its last event, or an error of the engine's own, has been seen

    def feed(self, piece: bytes) -> bytes:
        """Return what can go on."""
        end = max(piece.rfind(b"\n"), piece.rfind(b"\r")) + 1
        if not end:
            self._held += piece
            return b""
        whole, self._held = self._held + piece[:end], piece[end:]
        # Looked at only where it may be: the last event comes with or after the last token.
        if not self.finished and (_LAST in whole or any(mark in whole for mark in _ERRORS)):
            self.finished = any(line.startswith((_LAST, *_ERRORS)) for line in whole.splitlines())
        return whole

    @property
    def rest(self) -> bytes:
        """What never got its line end."""
        return self._held
