"""Five questions to the example archive, two of which take two notes: from one notebook, from all, from passages.

    python benchmarks/notebook_questions.py --model FILE.gguf [--context 8k]

Everything is a command that a person types, each in a process of its own: ``index``, ``notebook auto``, ``read``, then
each question with ``ask`` (which restores the notebook that holds the evidence), ``ask --deep`` and ``ask --passages``.
An answer is *right* when it states every fact that was asked for, *cited* when each note that holds one is cited, and
*verified* when every citation stands in its file. What a small model says is judged here, not what the program adds.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quietmind.base.errors import ModelNotFound
from quietmind.base.units import parse_tokens
from quietmind.model.locate import locate

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "archive"
CONTEXT = "8k"
WAYS: dict[str, tuple[str, ...]] = {"notebook": (), "deep": ("--deep",), "passages": ("--passages", "6")}


@dataclass(frozen=True)
class Question:
    """A question with the facts that answer it: of each, a pattern, and the notes that state it."""

    text: str
    facts: tuple[tuple[str, tuple[str, ...]], ...]


QUESTIONS = (
    Question("Which port does a phone connect to?", ((r"\b47115\b", ("functions/journal-and-sync.md",)),)),
    Question("Какой тираж у наклейки?", ((r"\b650\b", ("hardware/sticker.md",)),)),
    Question(
        "При каком ветре нужно закрывать форточку?",
        ((r"\b12\s*(?:м/с|m/s)", ("requirements/Обогрев и проветривание.md",)),),
    ),
    Question(
        "How much water does the tank of the test bench hold, and how many probes of the June batch were bad?",
        (
            (r"\b85\b", ("hardware/test-bench.md",)),
            (r"\b(?:2|two)\b(?: \w+)? of (?:10|ten)\b|\b2 (?:bad|probes)", ("hardware/calibration.txt",)),
        ),
    ),
    Question(
        "Какой была цена комплекта на первой встрече, и за сколько его продаём теперь?",
        ((r"\b149\b", ("meetings/2025-02-06-kickoff.md",)), (r"\b179\b", ("meetings/2025-06-12-team.md",))),
    ),
)


@dataclass(frozen=True)
class Judged:
    """What became of a question asked in one way. ``notebooks`` are those that were restored for it."""

    right: bool
    cited: bool
    verified: bool
    notebooks: tuple[str, ...]
    answer: str


def judged(question: Question, document: dict[str, Any]) -> Judged:
    """Judge what ``ask --json`` printed."""
    text = " ".join([document["answer"], *(side for pair in document["disagreements"] for side in pair)])
    # Where nothing that was said is supported, the closest passages are shown instead; they are no citations.
    supporting = [each for each in document["citations"] if each["supports"]]
    cited = {Path(each["path"]).relative_to(EXAMPLES).as_posix() for each in supporting}
    restored = [document["notebook"], *(part["restored"] for part in document["parts"])]
    return Judged(
        right=all(re.search(pattern, text, re.IGNORECASE) for pattern, _ in question.facts),
        cited=all(cited.intersection(paths) for _, paths in question.facts),
        verified=bool(cited) and all(each["verified"] for each in supporting),
        notebooks=tuple(each["name"] for each in restored if each and each["restored_tokens"]),
        answer=text,
    )


def ask_all(model: str, workspace: Path, context: int) -> dict[str, Any]:
    """Read the example archive with ``model`` in ``workspace``, ask everything in every way; return the counts."""

    def quietmind(*words: str) -> Any:
        command = [sys.executable, "-m", "quietmind", *words, "--json", "--workspace", str(workspace)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)

    run = ("--model", model, "--context", str(context))
    quietmind("index", str(EXAMPLES))
    quietmind("notebook", "auto", *run)
    quietmind("read", *run)
    names = [each["name"] for each in quietmind("notebook", "list")["notebooks"]]
    holders = {each["path"]: name for name in names for each in quietmind("notebook", "show", name)["members"]}
    counts: Counter[str] = Counter()
    for question in QUESTIONS:
        within = {holders.get(str(EXAMPLES / paths[0])) for _, paths in question.facts}
        counts["of two notes"] += len(question.facts) > 1
        counts["of two notes of one notebook"] += len(question.facts) > 1 and len(within) == 1
        print(question.text, flush=True)
        for way, words in WAYS.items():
            result = judged(question, quietmind("ask", question.text, *run, *words))
            counts.update(f"{way}: {what}" for what in ("right", "cited", "verified") if getattr(result, what))
            counts[f"{way}: restored"] += bool(result.notebooks)
            said = ", ".join(what for what in ("right", "cited", "verified") if getattr(result, what)) or "nothing held"
            of = f" (restored {', '.join(result.notebooks)})" if result.notebooks else ""
            print(f"  {way}{of}: {said}: {' '.join(result.answer.split())[:160]}", flush=True)
    return {"asked": len(QUESTIONS), "notebooks": len(names), **counts}


def asked(model: str, folder: Path, context: str = CONTEXT) -> dict[str, Any]:
    """Return the counts, or why nothing was asked."""
    try:
        locate(model)
    except ModelNotFound as error:
        print(f"questions skipped: {error}", flush=True)
        return {"skipped": str(error)}
    return ask_all(model, folder / "questions", parse_tokens(context))


def main() -> None:
    """Print each answer, and one line of JSON with the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--context", default=CONTEXT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = asked(given.model, Path(folder), given.context)
    print(json.dumps({"model": Path(given.model).stem, "answers": result}, ensure_ascii=False))


if __name__ == "__main__":
    main()
