"""A model that `quietmind up` runs and lends for a while: its KV cache is saved and restored there as by its owner.

A loan is a turn that lasts over several requests. It stands as long as the connection that took it, so that it ends
with its client, however that ends. Files change hands in a place that the lender names: no request holds a path.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from quietmind.base.errors import EngineRefused, EngineUnreachable
from quietmind.base.paths import shown_path
from quietmind.engine.llama_http import positions
from quietmind.engine.openai_engine import Elsewhere, Identity, OpenAIEngine
from quietmind.engine.openai_http import OpenAIHttp
from quietmind.engine.port import Endpoint, Position, Request
from quietmind.engine.served_tokens import LlamaTokens
from quietmind.plan.engines import ENGINES

# What the lender serves: POST takes a loan, as a stream of events that stays open; the others act within one.
LOAN, SAVE, RESTORE = "/loan", "/loan/save", "/loan/restore"
# The words that a loan's requests show in the place of the person's key.
MARK = "quietmind-loan-"
# Within so many seconds a cache of hundreds of GiB is written to a slow disk, or read from one.
CACHE_SECONDS = 1800.0


class Borrowed(OpenAIEngine):
    """A lent model. Implements the ports Engine, Saving and Probing. ``terms`` are what the lender says of its run."""

    def __init__(self, lender: Endpoint, loan: Mapping[str, Any], give_back: Callable[[], None]) -> None:
        endpoint = replace(lender, key=str(loan["token"]))
        http = OpenAIHttp(endpoint, lender.url)
        identity = Identity(
            name=lender.model,
            who=lender.url,
            endpoint=endpoint,
            context=int(loan["context"]),
            capabilities=replace(ENGINES["endpoint"].capabilities, snapshots=True),
            extra={"return_progress": True},  # an event a batch of prefill: the sign of life of a long prompt
        )
        super().__init__(identity, http, LlamaTokens(http, lender.model), _Lender(give_back))
        self.terms: Mapping[str, Any] = loan["terms"]
        self._loan = http
        self._file = Path(loan["file"])
        self._build = str(loan["build"])

    @property
    def build(self) -> str:
        """The lent engine's build; what it saves is for the same one only."""
        return self._build

    def probe(self, prompt: str, tokens: int, top: int) -> tuple[Position, ...]:
        """Continue ``prompt`` greedily and say what was likely at each place; see the port."""
        with self._alive():
            request = Request(prompt, tokens)
            body = self._body(request, self._tokens(prompt)) | {"logprobs": top}
            with self._turn:
                events = list(self._bounded(request, self._loan.stream(self._prompts.path, body)))
            told = [choice.get("logprobs") or {} for event in events for choice in event.get("choices") or ()]
            found = positions(place for each in told for place in each.get("content", ()))
        if not found:
            raise EngineRefused(f"{self.model}: {self._identity.who} told no probabilities; update it")
        return found

    def save(self, file: Path) -> int:
        """Write the KV cache that is held now to ``file`` and return its tokens; see the port."""
        tokens = self._tokens_of(SAVE)
        with _handed_over(self._file):
            file.unlink(missing_ok=True)
            shutil.move(self._file, file)
        return tokens

    def restore(self, file: Path) -> int:
        """Hold what :meth:`save` has written, and return its tokens; see the port."""
        with _handed_over(file):
            try:
                os.link(file, self._file)  # on one disk, as usual, this costs nothing
            except OSError:
                shutil.copyfile(file, self._file)
        try:
            return self._tokens_of(RESTORE)
        finally:  # else the next save would write into ``file`` itself
            self._file.unlink(missing_ok=True)

    def _tokens_of(self, action: str) -> int:
        self.require_alive()
        answer = self._loan.post(action, {}, seconds=CACHE_SECONDS)
        try:
            return int(answer["tokens"])
        except (KeyError, TypeError, ValueError) as error:
            raise EngineUnreachable(f"{self.endpoint.url}: {action} says no number of tokens; try again") from error


def borrow(lender: Endpoint, waiting: Callable[[int], None] = lambda _place: None) -> Borrowed:
    """Return the model ``lender.model`` once it is lent to us; ``stop`` gives it back.

    ``waiting`` is told of our place in the line when it changes, 1 being the next. Raises EngineRefused where the model
    cannot be lent, EngineUnreachable, EngineHung.
    """
    http = OpenAIHttp(lender, lender.url)
    connection = ExitStack()
    connection.callback(http.close)
    events = connection.enter_context(closing(http.stream(LOAN, {"model": lender.model, "stream": True})))
    try:
        for event in events:
            if "token" in event:
                return Borrowed(lender, event, connection.close)
            waiting(int(event["place"]))
        raise EngineRefused(f"{lender.url} lends {lender.model} no longer; try again")
    except (KeyError, TypeError, ValueError) as error:
        connection.close()
        raise EngineUnreachable(f"{lender.url}{LOAN} lends in words that are not known here; update both") from error
    except BaseException:
        connection.close()
        raise


class _Lender(Elsewhere):
    """Whoever lends: its server is not ours to end, the loan is."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back

    def end(self) -> None:
        """Give the model back."""
        self._give_back()


@contextmanager
def _handed_over(file: Path) -> Iterator[None]:
    """Within it, what the system refuses is that ``file`` cannot change hands. Raises EngineRefused."""
    try:
        yield
    except OSError as error:
        said = error.strerror or error
        raise EngineRefused(
            f"{shown_path(file)}: cannot be handed over ({said}); see the disk and its rights"
        ) from error
