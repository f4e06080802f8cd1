"""What a client is shown behind the text of an answer: what to know of it, and the lines of the notes that bear it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from quietmind.base.paths import shown_path
from quietmind.serve.archive import Archive
from quietmind.think.answer import Answer
from quietmind.think.telling import SOURCES, citation_lines, remarks
from quietmind.workspace.workspace import Workspace

# Two blanks keep a line end where the text is shown as Markdown.
_LINE_END = "  \n"


async def behind(archive: Archive, answer: Answer) -> str:
    """Return the lines behind the text of ``answer``, in which paths are relative to the folders of notes.

    Raises WorkspaceError.
    """
    blocks = [remarks(answer)]
    if answer.citations:
        roots = await archive.call(Workspace.roots)
        blocks.append([SOURCES, *citation_lines(answer, below(roots))])
    return "\n\n".join(_LINE_END.join(lines) for lines in blocks if lines)


def below(roots: Sequence[Path]) -> Callable[[Path], str]:
    """Return what writes a path for people: relative to its root, with the root's name where there are several."""

    def shown(path: Path) -> str:
        for root in roots:
            if path.is_relative_to(root):
                return shown_path((root.name if len(roots) > 1 else Path()) / path.relative_to(root))
        return shown_path(path)

    return shown
