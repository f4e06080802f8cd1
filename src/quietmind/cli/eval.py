"""``quietmind eval``: how well notes are found, measured on the person's own archive."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quietmind.base.paths import shown_path
from quietmind.base.progress import terminal_progress
from quietmind.cli.amounts import shown_time
from quietmind.cli.options import State, debug_option, json_option, pass_state, workspace_option
from quietmind.cli.output import counted, print_json, tell_place, visible, warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quietmind.notes.document import Hit
    from quietmind.notes.known_items import Item
    from quietmind.notes.language import Language
    from quietmind.workspace.asked_model import AskedModel
    from quietmind.workspace.evaluation import Asked, Evaluation, Rerank
    from quietmind.workspace.scoring import Figures, Interval

_LEGS = ("words", "meaning", "fused", "rerank")
_EXAMPLES = 3
_ONLY_WORDS = "only words were asked; `quietmind embed` makes vectors, by which notes are found in other words too"
_SETTINGS = {
    "words": 'embedder = "none" in the settings is better: it finds by words alone',
    "rerank": "rerank = true in the settings is better: `quietmind ask` then has the model judge what was found",
}


@click.command()
@click.option(
    "--questions", type=click.IntRange(1, 100_000), default=200, show_default=True, help="Most questions to ask."
)
@click.option("--seed", type=click.IntRange(0, 2**32), default=1, show_default=True, help="Which questions are chosen.")
@click.option(
    "--leg",
    "legs",
    type=click.Choice(_LEGS),
    multiple=True,
    help="Measure this way to rank only; may be repeated (default: all but rerank, which asks the model).",
)
@click.option("--model", help="The model that reranks, as for `quietmind ask` (default: tiny).")
@click.option("--show", is_flag=True, help="Print every question, where it must lead, and how it ranked.")
@click.option("--allow-remote", multiple=True, metavar="HOST", help="Consent that notes are sent to this other host.")
@json_option
@workspace_option
@debug_option
@pass_state
def eval(
    state: State,
    questions: int,
    seed: int,
    legs: tuple[str, ...],
    model: str | None,
    show: bool,
    allow_remote: tuple[str, ...],
    as_json: bool,
    workspace: Path,
) -> None:
    """Measure how well these notes are found, by questions made of what they say themselves.

    Titles, headings, definitions and first sentences are asked for, each as if its note had never said it. Nothing is
    written, and nothing leaves this machine.
    """
    from quietmind.workspace.asked_model import AskedModel
    from quietmind.workspace.embedding import searcher
    from quietmind.workspace.workspace import Workspace

    settings = state.settings
    began = time.perf_counter()
    with Workspace(workspace) as archive, ExitStack() as stack:
        archive.search_with(searcher(archive.folder, settings.embedder, allow_remote, warn))
        rerank = None
        if "rerank" in legs:
            judge = AskedModel.of_settings(archive, settings, warn, tell_place, name=model, allow_remote=allow_remote)
            rerank = _reranker(judge, stack)
        progress = stack.enter_context(terminal_progress())
        found = archive.evaluate(questions=questions, seed=seed, legs=legs or None, rerank=rerank, progress=progress)
    seconds = time.perf_counter() - began
    if as_json:
        print_json(_as_json(found, seconds))
    else:
        _print(found, seconds, show=show)


def _reranker(asked: AskedModel, stack: ExitStack) -> Rerank:
    """Return what reranks by the model, which runs until ``stack`` is closed."""
    from quietmind.workspace.reranking import reranked

    engine = stack.enter_context(asked.start())

    def rerank(question: str, hits: Sequence[Hit]) -> Sequence[Hit]:
        return reranked(engine, question, hits)

    return rerank


def _print(found: Evaluation, seconds: float, *, show: bool) -> None:
    from quietmind.workspace.evaluation import FEW

    if not found.asked:
        click.echo(
            f"{counted(found.notes, 'note')}: no question can be made of them; it takes titles, headings or sentences "
            "with something else beside them that no other note says"
        )
        return
    sources = Counter(each.item.source.value for each in found.asked)
    said = ", ".join(counted(number, source) for source, number in sources.most_common())
    click.echo(f"{counted(found.notes, 'note')}, {counted(len(found.asked), 'question')} made of them: {said}")
    click.echo("each is asked as if its note had never said it, and must lead there all the same:")
    for each in found.asked if show else found.asked[:_EXAMPLES]:
        ranks = f"  {_shown_ranks(each)}" if show else ""
        click.echo(f"  {visible(each.item.query)} -> {_place(each.item)}{ranks}")
    click.echo()
    _print_table(found)
    for line in (_verdict(found), _hint(found)):
        if line:
            click.echo(line)
    if len(found.asked) < FEW:
        click.echo(f"fewer than {FEW} questions: these numbers mean little")
    click.echo(f"in brackets what 95 of 100 such samples would give; took {shown_time(seconds)}, seed {found.seed}")


def _print_table(found: Evaluation) -> None:
    from quietmind.workspace.scoring import RECALL_AT

    titles = [f"recall@{most}" for most in RECALL_AT] + ["MRR"]
    click.echo(f"{'':8} {'':6} {'questions':>9}  " + "  ".join(f"{title:16}" for title in titles) + "  seconds each")
    for leg in found.legs:
        for number, language in enumerate(_languages(found)):
            figures = found.figures(leg, language)
            assert figures is not None, "a language is listed where it has a question"
            cells = [*(figures.recall[most] for most in RECALL_AT), figures.mrr]
            each = f"  {found.seconds[leg] / len(found.asked):.3f}" if not number else ""
            click.echo(
                f"{leg if not number else '':8} {language or 'all':6} {figures.questions:9,}  "
                + "  ".join(f"{_shown(cell):16}" for cell in cells).rstrip()
                + each
            )
    click.echo()


def _languages(found: Evaluation) -> list[Language | None]:
    """Return None, for all, and the languages of the questions if there are several."""
    from quietmind.notes.language import Language

    there = {language for each in found.asked for language in each.item.languages}
    return [None, *(language for language in Language if language in there and len(there) > 1)]


def _verdict(found: Evaluation) -> str:
    """Say which leg is best, and whether that may be chance."""
    compared = found.comparison()
    if compared is None:
        return ""
    above = "; ".join(
        f"{gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}) against {leg}, "
        f"{'more than chance' if gap.beyond_chance else 'which may be chance'}"
        for leg, gap in compared.above.items()
    )
    return f"best on these notes: {compared.best}, by mean reciprocal rank {above}"


def _hint(found: Evaluation) -> str:
    """Say which setting the verdict speaks for, or what there is to compare words with."""
    compared = found.comparison()
    if compared is None:
        return _ONLY_WORDS if found.legs == ("words",) else ""
    now = "fused" if "fused" in found.legs else "words"  # what is searched by without further settings
    gap = compared.above.get(now)
    if gap is not None and gap.beyond_chance and compared.best in _SETTINGS:
        return f"so on these notes {_SETTINGS[compared.best]}"
    return "so the settings may stay as they are"


def _shown(interval: Interval) -> str:
    return f"{interval.value:.2f} ({interval.low:.2f}-{interval.high:.2f})"


def _shown_ranks(asked: Asked) -> str:
    return ", ".join(f"{leg} {rank or 'not found'}" for leg, rank in asked.ranks.items())


def _place(item: Item) -> str:
    return f"{shown_path(item.path)}:{item.line}"


def _as_json(found: Evaluation, seconds: float) -> dict[str, Any]:
    compared = found.comparison()
    return {
        "notes": found.notes,
        "questions": len(found.asked),
        "seed": found.seed,
        "seconds": round(seconds, 3),
        "legs": {
            leg: {
                "seconds": round(found.seconds[leg], 4),
                "languages": {
                    language or "all": _figures_json(figures)
                    for language in _languages(found)
                    if (figures := found.figures(leg, language)) is not None
                },
            }
            for leg in found.legs
        },
        "best": compared and compared.best,
        "best_above": {} if compared is None else {leg: _interval_json(gap) for leg, gap in compared.above.items()},
        "items": [
            {
                "source": each.item.source,
                "languages": each.item.languages,
                "query": each.item.query,
                "path": str(each.item.path),
                "line": each.item.line,
                "ranks": dict(each.ranks),
            }
            for each in found.asked
        ],
    }


def _figures_json(figures: Figures) -> dict[str, Any]:
    return {
        "questions": figures.questions,
        **{f"recall_{most}": _interval_json(share) for most, share in figures.recall.items()},
        "mrr": _interval_json(figures.mrr),
    }


def _interval_json(interval: Interval) -> list[float]:
    """Return the value and its bounds."""
    return [round(each, 4) for each in (interval.value, interval.low, interval.high)]
