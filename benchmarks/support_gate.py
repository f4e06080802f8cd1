"""How often the support check passes what a note says, and stops what it does not say.

    python benchmarks/support_gate.py

The quotes of examples/archive.truth.json are the true sentences. Made from them: one number changed, "not" put in or
taken out, and the quote held against other passages. The last line is JSON.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

from quietmind.notes.document import Passage
from quietmind.notes.passages import passages
from quietmind.notes.reading import read_document
from quietmind.notes.scan import scan
from quietmind.think.support import ENOUGH, find_support, is_claim

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
OTHERS = 40


def number_changed(sentence: str) -> str | None:
    """Return the sentence with its last number made another one; None when it has none."""
    found = list(re.finditer(r"(?<![\w.-])\d+", sentence))
    if not found:
        return None
    last = found[-1]
    return f"{sentence[: last.start()]}{int(last[0]) + 7}{sentence[last.end() :]}"


def negation_flipped(sentence: str) -> str | None:
    """Return the sentence with a "not" or «не» taken out or put in, where that is simple; else None."""
    for pattern, instead in ((r"\bне ", ""), (r" not\b", ""), (r"\b(is|are|must|can|will) ", r"\1 not ")):
        flipped = re.sub(pattern, instead, sentence, count=1)
        if flipped != sentence:
            return flipped
    words = sentence.split(" ")
    return " ".join([*words[:-1], "не", words[-1]]) if re.match("[а-я]", words[-1]) and len(words) > 2 else None


def main() -> None:
    """Print the shares, by kind of sentence."""
    truth = json.loads((EXAMPLES / "archive.truth.json").read_text(encoding="utf-8"))
    cut = [
        passage for found in scan(EXAMPLES / "archive").found for passage in passages(read_document(Path(found.path)))
    ]
    places = [place for item in truth["flaws"] + truth["questions"] for place in item["places"]]
    print("predicted: true sentences pass in 0.98, changed numbers and negations in under 0.05, other passages 0.02")
    chance = random.Random(7)
    counts: dict[str, list[bool]] = {"true": [], "number": [], "negation": [], "other_passage": []}
    for place in places:
        home = [p for p in cut if _holds(p, place["path"], place["first_line"])]
        quote = " ".join(place["quote"].split())
        if not home or not is_claim(quote):
            continue
        counts["true"].append(find_support(quote, home[0].text) is not None)
        if not counts["true"][-1]:
            print(f"  true but not passed: {quote!r}")
        for kind, changed in (("number", number_changed(quote)), ("negation", negation_flipped(quote))):
            if changed:
                counts[kind].append(find_support(changed, home[0].text) is not None)
                if counts[kind][-1]:
                    print(f"  {kind} changed and passed: {changed!r}")
        for other in chance.sample([p for p in cut if p.path != home[0].path], OTHERS):
            counts["other_passage"].append(find_support(quote, other.text) is not None)
    result = {f"{kind}_passed": round(sum(passed) / len(passed), 4) for kind, passed in counts.items()}
    print(f"measured at ENOUGH = {ENOUGH}:")
    for kind, passed in counts.items():
        print(f"  {kind:14} {sum(passed):5} of {len(passed):5} pass")
    print(json.dumps(result | {"sentences": len(counts["true"])}))


def _holds(passage: Passage, path: str, line: int) -> bool:
    return passage.path == EXAMPLES / "archive" / path and passage.first_line <= line <= passage.last_line


if __name__ == "__main__":
    main()
