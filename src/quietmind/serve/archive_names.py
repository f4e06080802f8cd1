"""The names under which the notes are a model: ``archive``, ``archive:deep``, and ``archive:NOTEBOOK``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quietmind.base.errors import WorkspaceError
from quietmind.serve.archive import Archive, Question
from quietmind.serve.refusal import Refused, refuse

if TYPE_CHECKING:
    from quietmind.workspace.workspace import Workspace

NAME = "archive"
DEEP = f"{NAME}:deep"


def means_archive(model: object) -> bool:
    """Say whether ``model`` is a name of the notes, or would be one if there were such a notebook."""
    return isinstance(model, str) and (model == NAME or model.startswith(f"{NAME}:"))


async def archive_names(archive: Archive | None) -> list[str]:
    """Return all names of the notes; none where no notes are indexed, or the workspace cannot be read now."""
    if archive is None:
        return []
    try:
        notebooks = await archive.call(_notebooks)
    except WorkspaceError:
        return []
    return [] if notebooks is None else [NAME, DEEP, *(f"{NAME}:{name}" for name in notebooks)]


async def question_for(archive: Archive | None, model: str) -> Question:
    """Return the question, without words yet, that is for ``model``, one of the names of the notes.

    Raises Refused for a notebook that there is not, with those that there are; NothingIndexed, WorkspaceError.
    """
    if archive is None:
        raise Refused(refuse(404, "no workspace is served here, and so no archive", code="model_not_found"))
    if model == NAME:
        return Question("")
    if model == DEEP:
        return Question("", deep=True)
    notebook = model.removeprefix(f"{NAME}:")
    known = await archive.call(_notebooks) or []
    if notebook not in known:
        there = f"there are {', '.join(known)}" if known else "there are none; make some with `quietmind notebook auto`"
        raise Refused(refuse(404, f"no notebook is called {notebook!r}; {there}", code="model_not_found"))
    return Question("", notebook=notebook)


def _notebooks(workspace: Workspace) -> list[str] | None:
    """Return the names of the notebooks; None where no notes are indexed."""
    return [notebook.name for notebook in workspace.notebooks.all()] if workspace.roots() else None
