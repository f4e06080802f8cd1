"""One model behind the gateway: its supervised engine, the line before it, and the HTTP client that reaches it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from quietmind.base.errors import EngineError, EngineHung, EngineRefused
from quietmind.engine.port import Endpoint, Engine
from quietmind.serve.loan import Lending, Loan
from quietmind.serve.patience import Patience
from quietmind.serve.refusal import Refusal, refuse
from quietmind.serve.tally import Tally
from quietmind.serve.threads import in_thread
from quietmind.serve.turns import Turns
from quietmind.workspace.supervise import Supervised

if TYPE_CHECKING:
    import httpx2

_CONNECT_SECONDS = 5.0
# How long an error may wait for the words of how an engine ended.
_WORDS_SECONDS = 3.0
# What a client is told to wait for before it asks an engine again that is being started.
_RETRY_SECONDS = 5


class Lane:
    """A model by its name, and by what the person called it on the command line.

    ``width`` requests are answered at once, each by an engine that is never silent for longer than ``patience``.
    ``last_words`` returns what the supervisor last told the person of this engine. ``lending`` None: it is not lent;
    ``loan`` is the one that stands now. ``tally`` counts what was asked. Used from one event loop; the engine has
    threads of its own.
    """

    def __init__(
        self,
        name: str,
        supervised: Supervised,
        *,
        called: str = "",
        width: int = 1,
        last_words: Callable[[], str] = lambda: "",
        patience: Patience | None = None,
        lending: Lending | None = None,
    ) -> None:
        self.name = name
        self.names = frozenset({name, called or name})
        self.supervised = supervised
        self.turns = Turns(width)
        self.patience = patience or Patience()
        self.lending = lending
        self.loan: Loan | None = None
        self.tally = Tally()
        self._last_words = last_words
        self._client: tuple[Endpoint, httpx2.AsyncClient] | None = None
        self._closing: set[asyncio.Future[None]] = set()

    async def engine(self) -> Engine | Refusal:
        """Return the engine of now, or why there is none to ask. Does not wait for one to be started."""
        state = self.supervised.state
        if state == "ready":
            try:
                engine = await in_thread(lambda: self.supervised.engine, _WORDS_SECONDS)
            except (EngineError, TimeoutError):  # it ended in this moment
                state = self.supervised.state
            else:
                return engine
        if state == "given up":
            return refuse(503, self._named(str(self.supervised.trouble)), code="engine_given_up")
        if state == "stopped":
            return refuse(503, f"{self.name} has been stopped", code="engine_stopped")
        return self._again(self._last_words() or "the engine ended")

    async def failed(self, engine: Engine) -> Refusal:
        """Return what a broken exchange with ``engine`` means, and have it started again if it has ended."""
        try:
            error = await in_thread(lambda: _ending(engine), _WORDS_SECONDS)
        except TimeoutError:
            error = EngineHung(f"{engine.model}: the engine gives no sign of life")
        if error is None:  # it lives, and closed the connection
            return refuse(502, f"{self.name}: the engine broke off its answer; ask again", code="engine_broke_off")
        return self._again(str(error)) if isinstance(error, EngineRefused) else self._replaced(engine, error)

    def hung(self, engine: Engine) -> Refusal:
        """Have ``engine``, which was silent for longer than it may be, ended and started again; return what to say."""
        return self._replaced(engine, EngineHung(f"{engine.model}: the engine was silent for too long and was ended"))

    async def client(self, endpoint: Endpoint) -> httpx2.AsyncClient:
        """Return the client of ``endpoint``: after a start the engine may listen elsewhere."""
        import httpx2

        if self._client is None or self._client[0] != endpoint:
            earlier = self._client
            key = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
            client = httpx2.AsyncClient(
                base_url=endpoint.url,
                # Servers of this kind close a connection after each stream without announcing it.
                headers={"Connection": "close", **key},
                # Silence has its own limits: see Patience.
                timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
                transport=httpx2.AsyncHTTPTransport(
                    uds=str(endpoint.socket) if endpoint.socket else None,
                    verify=not endpoint.url.startswith("http:"),  # certificates take 0.1 s to load
                ),
                trust_env=False,
            )
            self._client = (endpoint, client)  # before anything is awaited: nobody else makes another
            if earlier is not None:
                self._let_go(earlier[1])
            return client
        return self._client[1]

    async def warm(self) -> None:
        """Make ready for the first request, which need not wait for imports."""
        engine = await self.engine()
        if not isinstance(engine, Refusal) and engine.endpoint is not None:
            await self.client(engine.endpoint)

    async def close(self) -> None:
        """Close the connections to the engine."""
        if self._client is not None:
            _, client = self._client
            self._client = None
            await client.aclose()

    def _let_go(self, client: httpx2.AsyncClient) -> None:
        """Close the connections to an engine that has gone: what comes of that is no business of those who ask now."""

        async def closed() -> None:
            with suppress(Exception):
                await client.aclose()

        closing = asyncio.ensure_future(closed())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _replaced(self, engine: Engine, error: EngineError) -> Refusal:
        threading.Thread(target=self.supervised.broken, args=(engine, error), daemon=True).start()
        return self._again(str(error))

    def _named(self, happened: str) -> str:
        return f"{self.name}: {happened.removeprefix(f'{self.name}: ')}"

    def _again(self, happened: str) -> Refusal:
        again = "" if "started again" in happened else "; it is being started again"
        message = f"{self._named(happened).removesuffix('; start it again')}{again}"
        return refuse(503, message, code="engine_starting", retry_after_s=_RETRY_SECONDS)


def _ending(engine: Engine) -> EngineError | None:
    """Return how an engine has ended, in its own words; None while it lives."""
    if engine.healthy():
        return None
    try:
        engine.tokenize(".")
    except EngineError as error:
        return error
    return None
