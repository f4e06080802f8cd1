"""What asking yields: what happens on the way, for whoever shows it, and at the end the answer."""

from __future__ import annotations

from dataclasses import dataclass

from quietmind.engine.port import Timings
from quietmind.think.verify import Citation
from quietmind.workspace.pack import Given

# Why an answer did not come to its end; what follows the first says what bounds it.
CUT_AT, REPEATED = "the answer was cut at ", "the model began to repeat itself and was stopped"
STOPPED = (CUT_AT, REPEATED)

NO_ENGINE = Timings(cached=0, prompt=0, prompt_ms=0.0, predicted=0, predicted_ms=0.0)


@dataclass(frozen=True)
class AskTimings:
    """Where the time of one question went, in milliseconds.

    ``engine`` is what the engine itself measured; for an answer that we stopped, what we saw of it. Where several
    notebooks were asked, the sum.
    """

    search_ms: float
    load_ms: float = 0.0
    first_token_ms: float = 0.0
    total_ms: float = 0.0
    engine: Timings = NO_ENGINE


@dataclass(frozen=True)
class Loading:
    """Something is to be asked, and the model is being loaded, which may take minutes."""


@dataclass(frozen=True)
class TakingUp:
    """The notebook of this name is looked up, and restored if what is stored of it serves."""

    notebook: str


@dataclass(frozen=True)
class Notice:
    """A line that the person should know, of what is not as they may think."""

    text: str


@dataclass(frozen=True)
class Found:
    """The passages that the model is given; it has yet to read ``tokens`` of them."""

    given: tuple[Given, ...]
    tokens: int = 0


@dataclass(frozen=True)
class Text:
    """The next piece of the answer to show."""

    text: str


@dataclass(frozen=True)
class FromNotebook:
    """A notebook that was asked whole: of its ``tokens``, so many were restored, in ``restore_ms``, from ``snapshot``.

    ``prefilled`` tokens were read beside them, the question's among these. Reading from nothing what was restored took
    ``fresh_seconds`` once; where the notebook was read just now, all of it takes that, and this took ``read_seconds``.
    """

    name: str
    tokens: int
    restored: int
    restore_ms: float
    prefilled: int
    fresh_seconds: float
    snapshot: str | None = None
    read_seconds: float | None = None


@dataclass(frozen=True)
class Part:
    """A partial answer: what of it was ``kept``, and the sentences that no passage supports and that were dropped.

    Out of ``notebook``; None for the notes that are in none. ``whole`` says how it was asked whole; None where its best
    passages were given instead, for the reason ``why``.
    """

    notebook: str | None
    whole: FromNotebook | None
    why: str
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    stopped_early: str | None = None


@dataclass(frozen=True)
class Answer:
    """What was answered. ``text`` is the joined Text pieces. ``found`` is False when no passage was relevant.

    ``stopped_early`` says why it did not come to its end, and ``cut`` that there was no room for more. ``notebook`` is
    the one that was asked; None for an answer from passages. ``parts`` are what a joined answer was
    made of, and ``disagreements`` pairs of sentences with their marks that are both in the notes and differ: they are
    not part of the text.
    """

    question: str
    text: str
    citations: tuple[Citation, ...]
    unsupported: tuple[str, ...]
    given: tuple[Given, ...]
    timings: AskTimings
    model: str | None
    found: bool
    stopped_early: str | None = None
    notebook: FromNotebook | None = None
    parts: tuple[Part, ...] = ()
    disagreements: tuple[tuple[str, str], ...] = ()
    cut: bool = False


Event = Loading | TakingUp | Notice | Found | Text | Answer
