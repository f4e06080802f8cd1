"""One question put to the model, and its answer: the text with checked marks as it comes, and what it took."""

from __future__ import annotations

import time
from collections.abc import Iterator

from quietmind.engine.port import Engine, Finished, Request, Timings
from quietmind.think.answer import CUT_AT, REPEATED, FromNotebook
from quietmind.think.draft import Draft
from quietmind.think.prompts import stop_words
from quietmind.think.sheet import Sheet


class Exchange:
    """A generation from a sheet. Its properties stand once all ``texts`` have been taken.

    ``first_token_ms`` counts from when it was asked for; ``stopped_early`` says why the model did not come to its end,
    and ``cut`` that there was no room for more.
    """

    def __init__(self, engine: Engine, sheet: Sheet) -> None:
        self.sheet = sheet
        self.draft = Draft(sheet.given, sheet.nearest)
        self.first_token_ms = 0.0
        self.stopped_early: str | None = None
        self.cut = False
        self._engine = engine
        self._request = Request(sheet.prompt, sheet.max_tokens, stop=stop_words(sheet.asked.question))
        self._last_token_ms = 0.0
        self._pieces = 0
        self._measured: Timings | None = None

    def texts(self) -> Iterator[str]:
        """Yield the text of the answer with checked marks. Stops a model that has begun to repeat itself."""
        began = time.perf_counter()
        events = self._engine.generate(self._request)
        for event in events:
            if isinstance(event, Finished):
                self._measured = event.timings
                if event.reason == "length":
                    self.cut = True
                    self.stopped_early = f"{CUT_AT}{self.sheet.cut_at}"
                break
            self._pieces += 1
            self._last_token_ms = ms_since(began)
            self.first_token_ms = self.first_token_ms or self._last_token_ms
            yield from self.draft.take(event.text)
            if self.draft.repeats_itself:
                events.close()  # tells the engine to stop
                self.stopped_early = REPEATED
                break
        yield from self.draft.close(whole=self.stopped_early is None)
        if self._measured is None:
            self._measured = self._seen()

    @property
    def timings(self) -> Timings:
        """What the engine measured; of a generation that was broken off, which it does not report, what we saw."""
        assert self._measured is not None, "all texts have been taken"
        return self._measured

    @property
    def notebook(self) -> FromNotebook | None:
        """The notebook that was asked; None for passages."""
        held = self.sheet.held
        if held is None:
            return None
        restored = held.restored
        return FromNotebook(
            name=held.notebook.name,
            tokens=sum(map(len, held.layout.tokens)),
            restored=restored.tokens if restored else 0,
            restore_ms=restored.milliseconds if restored else 0.0,
            prefilled=self.timings.prompt,
            fresh_seconds=restored.seconds if restored else held.read.seconds if held.read else 0.0,
            snapshot=restored.snapshot.path.name if restored and restored.snapshot else None,
            read_seconds=held.read.spent if held.read else None,
        )

    def _seen(self) -> Timings:
        """Return what we saw ourselves; a piece is a token."""
        held = self.sheet.held
        cached = sum(map(len, held.layout.tokens)) - self.sheet.unread if held else 0
        return Timings(
            cached=cached,
            prompt=len(self._engine.tokenize(self._request.prompt)) - cached,
            prompt_ms=self.first_token_ms,
            predicted=self._pieces,
            predicted_ms=self._last_token_ms - self.first_token_ms,
        )


def ms_since(start: float) -> float:
    """Return the milliseconds since ``start``, a reading of ``time.perf_counter``."""
    return (time.perf_counter() - start) * 1000
