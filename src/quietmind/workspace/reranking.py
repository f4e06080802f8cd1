"""Putting what search found in the order in which a model holds it to answer the question.

An engine that tells probabilities is asked of each passage alone whether it does, and the passages are ordered by the
odds of Yes against No for the first word of its answer. The question stands before the passage, so that all but the
passage comes from the cache. Any other engine is shown all passages at once and asked for their order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

from quietmind.base.errors import EngineRefused
from quietmind.engine.port import Delta, Engine, Message, Probing, Prompt, Request, Segment
from quietmind.notes.document import Hit

FIRST = 20  # passages that are judged; what is ranked below them is hardly ever right

_JUDGE = "You judge whether a passage from a person's notes answers a question. Answer with Yes or No alone."
_JUDGED = "Question: {question}\n\nPassage: {place}\n{text}\n\nDoes this passage answer the question? Yes or No?"
# The answer is begun for the model: one that likes to think first would otherwise not say either word.
_BEGUN = "Answer:"
_YES = (" Yes", "Yes", " yes", "yes", " YES", "YES")
_NO = (" No", "No", " no", "no", " NO", "NO")
_TOP = 64  # likeliest tokens that are looked at for the two words
_NEVER = 1e-6  # added to both: of neither, there is no judgement

_ORDER = (
    "You order passages from a person's notes by how well they answer a question. Answer with the numbers of the "
    "passages, the best first."
)
_MOST_CHARS = 2000  # of a passage that is judged alone; as long as passages are
_LISTED_CHARS = 400  # of each that is shown among others
_SMALLEST_CHARS = 100
_ORDER_TOKENS = 200


def reranked(engine: Engine, question: str, hits: Sequence[Hit], first: int = FIRST) -> list[Hit]:
    """Return ``hits`` with the ``first`` of them in the order in which the model of ``engine`` holds them to answer.

    Their scores are between 0 and 1 then, probabilities or shares of the places in the list; those of the others, which
    follow in their order, below 0. Raises EngineRefused for an engine that can do neither, and what generating raises.
    """
    judged, others = list(hits[:first]), list(hits[first:])
    if len(judged) > 1:
        if isinstance(engine, Probing):
            scores = [_probability(engine, question, hit) for hit in judged]
        elif engine.capabilities.schema:
            scores = _listed(engine, question, judged)
        else:
            raise EngineRefused(
                f"{engine.model}: this engine neither tells probabilities nor holds its output to a schema; "
                "use llama.cpp to rerank"
            )
        best = sorted(range(len(judged)), key=lambda place: -scores[place])
        judged = [replace(judged[place], score=scores[place]) for place in best]
    return [*judged, *(replace(hit, score=-float(place)) for place, hit in enumerate(others, 1))]


def _probability(engine: Engine, question: str, hit: Hit) -> float:
    """Return the probability of Yes where the answer is Yes or No."""
    assert isinstance(engine, Probing)
    chars = _MOST_CHARS
    while True:
        text = hit.passage.text.strip()[:chars]
        asked = _JUDGED.format(question=question.strip(), place=hit.passage.place, text=text)
        prompt = engine.render([Message("system", _JUDGE), Message("user", asked)])
        prompt = Prompt([*prompt.segments, Segment(_BEGUN, trusted=False)])
        if chars <= _SMALLEST_CHARS or len(engine.tokenize(prompt)) < engine.context:
            break
        chars //= 2
    (answer, *_) = engine.probe(prompt, 1, _TOP) or (None,)
    if answer is None:
        return 0.5
    yes, no = (
        sum(math.exp(answer.logprobs[token]) for token in _firsts(engine, words) if token in answer.logprobs)
        for words in (_YES, _NO)
    )
    return (yes + _NEVER) / (yes + no + 2 * _NEVER)


def _firsts(engine: Engine, words: Sequence[str]) -> set[int]:
    """Return the tokens that begin ``words``."""
    return {tokens[0] for word in words if (tokens := engine.tokenize(word))}


def _listed(engine: Engine, question: str, hits: Sequence[Hit]) -> list[float]:
    """Return the share of the list that is left below each of ``hits``, in the order that the model gives them.

    Those that it does not name follow in the order that they had.
    """
    named = _numbers(_order(engine, question, hits), len(hits))
    order = [*named, *(place for place in range(len(hits)) if place not in named)]
    return [1 - order.index(place) / len(hits) for place in range(len(hits))]


def _order(engine: Engine, question: str, hits: Sequence[Hit]) -> str:
    """Return what the model answers, a JSON list of numbers from 1 if all is well."""
    schema = {
        "type": "array",
        "items": {"type": "integer", "minimum": 1, "maximum": len(hits)},
        "maxItems": len(hits),
    }
    chars = _LISTED_CHARS
    while True:
        passages = "\n\n".join(
            f"[{number}] {hit.passage.place}\n{' '.join(hit.passage.text.split())[:chars]}"
            for number, hit in enumerate(hits, 1)
        )
        asked = f"Question: {question.strip()}\n\n{passages}\n\nQuestion: {question.strip()}\nNumbers, the best first:"
        prompt = engine.render([Message("system", _ORDER), Message("user", asked)])
        if chars <= _SMALLEST_CHARS or len(engine.tokenize(prompt)) + _ORDER_TOKENS <= engine.context:
            break
        chars //= 2
    request = Request(prompt, _ORDER_TOKENS, schema=schema)
    return "".join(event.text for event in engine.generate(request) if isinstance(event, Delta))


def _numbers(said: str, most: int) -> list[int]:
    """Return the places, from 0, that a list of numbers from 1 names, each once; none of what is no such list."""
    try:
        numbers = json.loads(said)
    except (ValueError, RecursionError):  # cut off, or not what was asked for
        return []
    if not isinstance(numbers, list):
        return []
    return [
        number - 1 for number in dict.fromkeys(each for each in numbers if type(each) is int) if 1 <= number <= most
    ]
