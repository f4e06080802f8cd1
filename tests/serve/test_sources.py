"""How the path of a source is written for people."""

from __future__ import annotations

from pathlib import Path

import pytest

from quietmind.serve.sources import below


@pytest.mark.parametrize(
    ("roots", "path", "shown"),
    [
        (["/home/me/notes"], "/home/me/notes/a/b.md", "a/b.md"),
        (["/home/me/notes", "/srv/wiki"], "/srv/wiki/b.md", "wiki/b.md"),
        (["/home/me/notes"], "/home/me/notes-old/b.md", "/home/me/notes-old/b.md"),
        ([], "/srv/b.md", "/srv/b.md"),
        (["/home/me/notes"], "/home/me/notes/two\nlines.md", "two\\nlines.md"),
    ],
)
def test_a_path_is_relative_to_its_root_and_always_one_line(roots: list[str], path: str, shown: str) -> None:
    assert below([Path(root) for root in roots])(Path(path)) == shown
