"""Any server of ``/v1/embeddings``: llama-server, vLLM, Ollama, LM Studio with an embedding model.

Consent to another host, keys and errors are as for a model at an address (engine/endpoint.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from quietmind.base.errors import ContextOverflow, EngineRefused, EngineUnreachable, UsageError
from quietmind.engine.embedders.prefixes import prefixes_for
from quietmind.engine.embedders.unit import unit
from quietmind.engine.endpoint import checked
from quietmind.engine.openai_http import OpenAIHttp, Patience
from quietmind.engine.port import Endpoint

if TYPE_CHECKING:
    import httpx2
    import numpy as np
    from numpy.typing import NDArray

_PASSAGES_SECONDS = 600.0  # a batch, on a processor, the model's loading included
_QUERY_SECONDS = 5.0  # somebody waits, and search goes on without
_FEWEST_CHARS = 200  # of a text that did not fit; a model that takes less is none


class EndpointEmbedder:
    """The model behind ``#`` of ``address`` (the only one that is served, where nothing stands there).

    ``announce`` is told, in a line, that notes will leave this machine. Raises UsageError for an address without
    consent or a model that has to be named, EngineUnreachable, EngineRefused, EngineHung.
    """

    most_tokens = None

    def __init__(
        self,
        address: str,
        *,
        allow_remote: Sequence[str] = (),
        key: str = "",
        announce: Callable[[str], None] = lambda _: None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        url, _, model = address.partition("#")
        where = checked(url, allow_remote)
        self._who = where.base
        if where.remote:
            announce(f"notes will leave this machine: every passage is sent to {where.base}")
        patience = Patience(call=_QUERY_SECONDS)
        self._http = OpenAIHttp(Endpoint(where.base, key, model), where.base, patience=patience, transport=transport)
        try:
            self._model = model or self._only_model()
            self._prefixes = prefixes_for(self._model)
            self.name = f"{where.base}#{self._model}"
            self.dimensions = self._vectors(["one two"], _PASSAGES_SECONDS, None).shape[1]
        except BaseException:
            self.close()
            raise
        told = f"endpoint {self._model} {self.dimensions} {self._prefixes}"
        self.digest = hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of ``texts``, float32 [n, dimensions]; of a text that is too long, of its beginning."""
        wanted = [self._prefixes.passage + text for text in texts]
        while True:
            try:
                return self._vectors(wanted, _PASSAGES_SECONDS, self.dimensions)
            except ContextOverflow:
                longest = max(map(len, wanted))
                if longest <= _FEWEST_CHARS:
                    raise
                wanted = [text[: max(longest // 2, _FEWEST_CHARS)] for text in wanted]

    def query(self, text: str) -> NDArray[np.float32]:
        """Return the vector of a query, float32 [dimensions]."""
        vector: NDArray[np.float32] = self._vectors([self._prefixes.query + text], _QUERY_SECONDS, self.dimensions)[0]
        return vector

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def _vectors(self, texts: Sequence[str], seconds: float, dimensions: int | None) -> NDArray[np.float32]:
        body = {"model": self._model, "input": list(texts), "encoding_format": "float"}
        answer = self._http.post("/v1/embeddings", body, seconds=seconds)
        return unit(self._in_order(answer, len(texts)), len(texts), dimensions, self._who)

    def _in_order(self, answer: Any, count: int) -> list[Any]:
        try:
            by_index = {each["index"]: each["embedding"] for each in answer["data"]}
            return [by_index[index] for index in range(count)]
        except (KeyError, TypeError) as error:
            raise EngineUnreachable(
                f"{self._who}/v1/embeddings did not answer with a vector for each text; it serves no embeddings"
            ) from error

    def _only_model(self) -> str:
        try:
            names = [str(each["id"]) for each in self._http.get("/v1/models")["data"]]
        except (KeyError, TypeError) as error:
            raise EngineUnreachable(f"{self._who}/v1/models holds no list of models; name one behind a #") from error
        if not names:
            raise EngineRefused(f"{self._who} serves no model; load one there first")
        if len(names) > 1:
            raise UsageError(f"{self._who} serves several models ({', '.join(names[:8])}); name one behind a #")
        return names[0]
