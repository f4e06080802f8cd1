"""The record of what a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# "fine": as it should be. "better": it works, and could work better. "hinders": something does not work as it is.
Level = Literal["fine", "better", "hinders"]


@dataclass(frozen=True)
class Finding:
    """One line. ``fix`` is the command that mends it, or words where there is none; None: there is nothing to mend."""

    subject: str
    level: Level
    text: str
    fix: str | None = None


def fine(subject: str, text: str, fix: str | None = None) -> Finding:
    """Return a finding of something that is as it should be; ``fix`` is what would add to it."""
    return Finding(subject, "fine", text, fix)


def better(subject: str, text: str, fix: str) -> Finding:
    """Return a finding of something that could work better."""
    return Finding(subject, "better", text, fix)


def hinders(subject: str, text: str, fix: str) -> Finding:
    """Return a finding of something that does not work as it is."""
    return Finding(subject, "hinders", text, fix)
