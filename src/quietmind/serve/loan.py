"""Lends a model to one client for a while: a turn over several requests, between which its KV cache stays what it is.

So a client can restore a cache and generate from it with nobody in between. A loan is as long as the connection that
took it, and ends sooner where nothing is asked. Its client is known by a token, which is no key to anything else; files
lie in a folder of ours under a name of ours, and no request says where.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quietmind.base.errors import EngineCrashed, EngineHung, QuietmindError
from quietmind.engine.borrowed import CACHE_SECONDS, MARK, SAVE
from quietmind.engine.port import Engine, saving
from quietmind.serve.exchange import Exchange, Headers
from quietmind.serve.refusal import Refusal, refuse
from quietmind.serve.threads import in_thread
from quietmind.serve.turns import Turns

if TYPE_CHECKING:
    from quietmind.serve.lane import Lane

# Seconds within which an engine's terms are known: they are read from the weights' file and asked of its tokenizer.
_TERMS_SECONDS = 120.0
# How often, in seconds, a loan is looked at.
_LOOK_EVERY = 0.5


@dataclass(frozen=True)
class Lending:
    """How a model is lent. ``terms`` says of an engine that runs what its borrower has to know, JSON-ready.

    ``folder`` takes the caches that change hands. A loan ends ``idle`` seconds after its last request, within which
    the largest cache is packed or unpacked; where others wait, with the first request that ends past ``longest``.
    """

    folder: Path
    terms: Callable[[Engine], Mapping[str, Any]]
    idle: float = 600.0
    longest: float = 3600.0


class Loan:
    """A model that is lent: ``engine`` and no other, which may be started again meanwhile."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.token = MARK + secrets.token_hex(32)
        self.file = folder / secrets.token_hex(16)
        self._began = self._used = time.monotonic()
        self._working = asyncio.Lock()

    def shown_by(self, token: str) -> bool:
        """Say whether ``token`` is this loan's."""
        return secrets.compare_digest(self.token.encode(), token.encode())

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Within it one request is answered: one after the other, and the loan does not end."""
        async with self._working:
            try:
                yield
            finally:
                self._used = time.monotonic()

    async def over(self, lending: Lending, turns: Turns) -> str:
        """Return why it ends, once it does; ``turns`` has those who wait for it."""
        while True:
            now = time.monotonic()
            if not self._working.locked():
                if now - self._used >= lending.idle:
                    return f"nothing was asked for {lending.idle:g} s"
                if turns.waiting and now - self._began >= lending.longest:
                    return f"it was lent for {lending.longest:g} s, and others wait for it"
            await asyncio.sleep(min(_LOOK_EVERY, lending.idle / 2))


def token_of(headers: Headers) -> str | None:
    """Return the token of a loan that a request shows in the place of a key; None where it shows none."""
    shown = [value for name, value in headers if name.lower() == b"authorization"]
    token = shown[0].decode("latin-1").removeprefix("Bearer ") if len(shown) == 1 else ""
    return token if token.startswith(MARK) else None


def lane_of(lanes: Sequence[Lane], token: str) -> Lane | None:
    """Return the lane whose loan ``token`` shows; None for a loan that is over."""
    return next((lane for lane in lanes if lane.loan is not None and lane.loan.shown_by(token)), None)


def ended() -> Refusal:
    """Return what a client is told that shows a loan which is over."""
    return refuse(410, "the loan of the model has ended; ask again", code="loan_ended")


async def lend(lane: Lane, exchange: Exchange, headers: Headers) -> None:
    """Lend the model, whose turn it is, until the loan is over or this is cancelled."""
    begun = await _begun(lane)
    if isinstance(begun, Refusal):
        await exchange.refuse(begun, headers)
        return
    said, lending, loan = begun
    lane.loan = loan
    try:
        if not exchange.begun:
            await exchange.begin(200, [(b"content-type", b"text/event-stream"), *headers], events=True)
        await exchange.write(b"data: " + json.dumps(said).encode("ascii") + b"\n\n")
        why = await loan.over(lending, lane.turns)
        await exchange.refuse(refuse(410, f"the loan of {lane.name} has ended: {why}", code="loan_ended"))
    finally:
        lane.loan = None
        async with loan.at_work():  # a request that is being answered still has the turn
            await in_thread(lambda: loan.file.unlink(missing_ok=True), CACHE_SECONDS)


async def _begun(lane: Lane) -> tuple[dict[str, Any], Lending, Loan] | Refusal:
    """Return what the borrower is told, and the loan; or why there is none."""
    engine, lending = await lane.engine(), lane.lending
    if isinstance(engine, Refusal):
        return engine
    if lending is None or lane.turns.width > 1 or not engine.capabilities.snapshots:
        why = "it answers several at once" if lane.turns.width > 1 else "its engine cannot keep what it reads"
        return refuse(501, f"{lane.name} cannot be lent: {why}", code="not_lent")
    try:
        terms = await in_thread(lambda: lending.terms(engine), _TERMS_SECONDS)
        build = saving(engine).build
        await in_thread(lambda: lending.folder.mkdir(mode=0o700, parents=True, exist_ok=True), _TERMS_SECONDS)
    except (QuietmindError, OSError) as error:
        return refuse(503, f"{lane.name} cannot be lent: {str(error) or 'it gives no answer'}", code="not_lent")
    loan = Loan(engine, lending.folder)
    said = {"token": loan.token, "file": str(loan.file), "build": build, "context": engine.context, "terms": terms}
    return said, lending, loan


async def in_loan(lane: Lane, exchange: Exchange, answer: Callable[[], Awaitable[None]]) -> None:
    """Have ``answer`` answer a request of the client that the model is lent to, unless the loan has ended meanwhile."""
    loan = lane.loan
    if loan is None:
        await exchange.refuse(ended())
        return
    async with loan.at_work():
        if lane.loan is loan and await lane.engine() is loan.engine:
            await answer()
        else:
            await exchange.refuse(ended())


async def pass_cache(lane: Lane, exchange: Exchange) -> None:
    """Save or restore the cache of the lent model, as the path of the request says, and answer with its tokens."""
    if (loan := lane.loan) is None:
        await exchange.refuse(ended())
        return
    act = saving(loan.engine).save if exchange.path == SAVE else saving(loan.engine).restore
    try:
        tokens = await in_thread(lambda: act(loan.file), CACHE_SECONDS)
    except EngineCrashed:
        await exchange.refuse(await lane.failed(loan.engine))
    except (EngineHung, TimeoutError):
        await exchange.refuse(lane.hung(loan.engine))
    except QuietmindError as error:
        await exchange.refuse(refuse(422, str(error), code="cache_refused"))
    else:
        await exchange.give_json({"tokens": tokens})


def as_event(place: int) -> bytes:
    """Return what a borrower that waits in line is told of its place."""
    return b'data: {"place": %d}\n\n' % place


def clear(folder: Path) -> None:
    """Remove what a killed run has left of its loans."""
    shutil.rmtree(folder, ignore_errors=True)
