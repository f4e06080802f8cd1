"""What has been asked so far, in numbers: how many, how long, how many tokens. Of what was said, nothing."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

from quietmind.think.answer import Answer

# Seconds: a restored notebook answers within the first, a long prompt on a slow machine within the last.
SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)

# What llama.cpp's server measures, and what others say in OpenAI's words. Within a string of JSON its quotes are
# escaped, so that no text can be taken for one.
_MEASURED = re.compile(rb'"(cache_n|prompt_n|predicted_n)"\s*:\s*(\d{1,12})')
_USED = re.compile(rb'"(cached_tokens|prompt_tokens|completion_tokens)"\s*:\s*(\d{1,12})')


class Spread:
    """How many of some durations lie below each of SECONDS, and their sum."""

    def __init__(self) -> None:
        self.below = [0] * (len(SECONDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.below[bisect_left(SECONDS, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return the bounds with how many lie at or below each, as Prometheus has it."""
        total, found = 0, []
        for bound, count in zip((*map(str, SECONDS), "+Inf"), self.below, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


@dataclass
class Tally:
    """One model's. ``tokens`` by what became of them: cached ones cost nothing, those restored came from a snapshot."""

    first_token: Spread = field(default_factory=Spread)
    tokens: Counter[str] = field(default_factory=Counter)

    def read(self, cached: int, prefilled: int, written: int) -> None:
        """Count the tokens of an answer."""
        self.tokens.update(cached=cached, prefilled=prefilled, written=written)

    def answered(self, answer: Answer) -> None:
        """Count the tokens of an answer from the notes."""
        took = answer.timings.engine
        self.read(took.cached, took.prompt, took.predicted)
        wholes = [answer.notebook, *(part.whole for part in answer.parts)]
        self.tokens["restored"] += sum(whole.restored for whole in wholes if whole is not None)

    @staticmethod
    def told_by(said: bytes) -> bool:
        """Say whether an engine's words tell of tokens."""
        return b'"predicted_n"' in said or b'"completion_tokens"' in said

    def passed(self, said: bytes) -> None:
        """Count the tokens that an engine's own answer, or the end of it, tells of."""
        if b'"predicted_n"' in said:
            told = {name: int(number) for name, number in _MEASURED.findall(said)}
            self.read(told.get(b"cache_n", 0), told.get(b"prompt_n", 0), told.get(b"predicted_n", 0))
        elif b'"completion_tokens"' in said:
            told = {name: int(number) for name, number in _USED.findall(said)}
            cached = told.get(b"cached_tokens", 0)
            self.read(cached, told.get(b"prompt_tokens", 0) - cached, told.get(b"completion_tokens", 0))


@dataclass
class Requests:
    """Those of the whole address, by route and status."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: dict[str, Spread] = field(default_factory=dict)

    def count(self, route: str, status: str, seconds: float) -> None:
        """Count one that has ended; ``status`` is empty where its client left before one was sent."""
        self.counts[route, status] += 1
        self.seconds.setdefault(route, Spread()).add(seconds)
