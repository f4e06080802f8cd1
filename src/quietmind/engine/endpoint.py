"""Any OpenAI-compatible address as an engine: Ollama, LM Studio, a vLLM elsewhere; somebody else runs it.

Addresses of the loopback are used freely. Any other host would see the notes, and is spoken to only with consent that
names it exactly, and encrypted unless the consent itself says ``http://``.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, TypeVar

from quietmind.base.errors import EngineError, EngineRefused, EngineUnreachable, UsageError
from quietmind.base.paths import shown_path
from quietmind.engine.chat_only import ChatOnly
from quietmind.engine.markers import Markers
from quietmind.engine.openai_engine import Elsewhere, Identity, OpenAIEngine, Prompts
from quietmind.engine.openai_http import KeyRefused, OpenAIHttp, Patience
from quietmind.engine.port import Endpoint
from quietmind.engine.served_tokens import LlamaTokens, ServedTokens
from quietmind.plan.engines import ENGINES

if TYPE_CHECKING:
    import httpx2

_LARGEST_KEY_BYTES = 4096
_SHOWN_NAMES = 8

# What a large model may take to be read from a slow disk.
_LOADING_SECONDS = 900.0


@dataclass(frozen=True)
class EndpointOptions:
    """Which server, and what may be sent to it.

    ``url`` is ``http://127.0.0.1:11434``, with or without ``/v1``. ``model`` None: the only one that is served.
    ``context`` in tokens; None: what the server says. ``allow_remote`` lists the hosts, other than this machine, that
    notes may be sent to: ``gpu.lan`` by TLS, ``http://gpu.lan`` also without.
    """

    url: str
    model: str | None = None
    context: int | None = None
    key: str = field(default="", repr=False)
    allow_remote: tuple[str, ...] = ()
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True)
class Address:
    """A checked address. ``base`` has no ``/v1`` and no slash at its end; ``remote`` names another host."""

    base: str
    host: str
    remote: bool


def connect(
    options: EndpointOptions,
    announce: Callable[[str], None] = lambda _: None,
    transport: httpx2.BaseTransport | None = None,
) -> OpenAIEngine:
    """Return the engine at an address, which answers already.

    ``announce`` is told, in a line each, what the person must know; first of all when notes will leave this machine.
    Raises UsageError for an address without consent, a model or a context that has to be named; EngineUnreachable,
    EngineHung or EngineRefused for a server that does not behave as one.
    """
    address = checked(options.url, options.allow_remote)
    if address.remote:
        how = "" if address.base.startswith("https:") else ", unencrypted"
        announce(f"notes will leave this machine: every prompt is sent to {address.base}{how}")
    who = address.base
    unnamed = Endpoint(address.base, options.key, "")
    http = OpenAIHttp(unnamed, who, patience=options.patience, transport=transport)
    try:
        model, told = _model(http, who, options.model)
        context = _context(http, who, model, told, options.context)
        prompts = _prompts(http, model)
    except BaseException:
        http.close()
        raise
    if prompts.estimated:
        announce(f"{who} serves no tokenizer: token counts are estimates, and its own limit may be met first")
    identity = Identity(
        name=Path(model).stem if model.startswith("/") else model,  # llama-server's is the path of its file
        who=who,
        endpoint=Endpoint(address.base, options.key, model),
        context=context,
        capabilities=ENGINES["endpoint"].capabilities,
        health=lambda each: each.answers("/v1/models"),
    )
    return OpenAIEngine(identity, http, prompts, Elsewhere())


def checked(url: str, allow_remote: Sequence[str]) -> Address:
    """Return the address that ``url`` names. Raises UsageError for one that makes no sense or has no consent."""
    import httpx2

    shown = url if "@" not in url else "the address"  # it may hold a password
    try:
        # The library that connects reads the address, so that no other reading of it counts.
        parsed = httpx2.URL(url.strip())
        host, scheme = parsed.raw_host.decode("ascii").lower(), parsed.scheme
        port = parsed.port
    except (httpx2.InvalidURL, ValueError, TypeError) as error:
        raise UsageError(f"{shown}: not an address ({error}); give one such as http://127.0.0.1:11434") from error
    if scheme not in {"http", "https"} or not host:
        raise UsageError(f"{shown}: not an address of a server; give one such as http://127.0.0.1:11434")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise UsageError(f"{shown}: an address with a password, a query or a fragment; give the key by a file instead")
    where = f"[{host}]" if ":" in host else host
    base = f"{scheme}://{where}{f':{port}' if port else ''}{parsed.path.rstrip('/').removesuffix('/v1')}"
    remote = not _is_this_machine(host)
    if remote:
        _require_consent(scheme, host, allow_remote)
    return Address(base, host, remote)


def key_from_file(file: Path) -> str:
    """Return the key in ``file``. Raises UsageError for a file that others may read, or that holds no key."""
    shown = shown_path(file)
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as opened:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise UsageError(f"{shown}: not a plain file; give the file that holds the key")
            if mode & 0o077:
                raise UsageError(f"{shown}: others on this machine may read this key; chmod 600 {quote(str(file))}")
            content = opened.read(_LARGEST_KEY_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{shown}: the key cannot be read ({error.strerror}); check the path") from error
    return _key(content.decode("latin-1"), shown)


def key_from_environment(variable: str) -> str:
    """Return the key in an environment variable. Raises UsageError where there is none."""
    if variable not in os.environ:
        raise UsageError(f"${variable} is not set; set it to the key, or give the key by a file")
    return _key(os.environ[variable], f"${variable}")


def _key(content: str, shown: str) -> str:
    key = content.strip()
    if not key or len(key) > _LARGEST_KEY_BYTES or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(f"{shown}: holds no key; it should be one line of letters, digits and signs")
    return key


def _is_this_machine(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    if host != "localhost":
        return False
    try:  # the name is only as good as what /etc/hosts says of it
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(each[4][0]).partition("%")[0]).is_loopback for each in found)


def _require_consent(scheme: str, host: str, allow_remote: Sequence[str]) -> None:
    allowed = {each.strip().lower().rstrip("/") for each in allow_remote}
    if scheme == "https" and allowed & {host, f"https://{host}", f"http://{host}"}:
        return
    if scheme == "http" and f"http://{host}" in allowed:
        return
    if scheme == "http" and allowed & {host, f"https://{host}"}:
        raise UsageError(
            f"{host}: without TLS anybody on the way could read the notes; use https://, or consent to that with "
            f"--allow-remote http://{host}"
        )
    wanted = host if scheme == "https" else f"http://{host}"
    raise UsageError(
        f"{host} is not this machine, and your notes would be sent to it; if you want that, say so with "
        f"--allow-remote {wanted}"
    )


def _model(http: OpenAIHttp, who: str, wanted: str | None) -> tuple[str, dict[str, Any]]:
    """Return the model's name and what the server says of it. Raises UsageError, EngineUnreachable."""
    answer = http.get("/v1/models")
    try:
        listed = {str(each["id"]): each for each in answer["data"]}
    except (KeyError, TypeError) as error:
        raise EngineUnreachable(
            f"{who}/v1/models holds no list of models; it is not an OpenAI-compatible server"
        ) from error
    names = ", ".join(list(listed)[:_SHOWN_NAMES]) + (", ..." if len(listed) > _SHOWN_NAMES else "")
    if not listed:
        raise EngineRefused(f"{who} serves no model; load one there first")
    if wanted is None:
        if len(listed) > 1:
            raise UsageError(f"{who} serves several models ({names}); name one")
        wanted = next(iter(listed))
    found = wanted if wanted in listed else f"{wanted}:latest"  # Ollama's default tag
    if found not in listed:
        raise UsageError(f"{who} does not serve {wanted}; it serves {names}")
    return found, listed[found]


def _context(http: OpenAIHttp, who: str, model: str, told: dict[str, Any], wanted: int | None) -> int:
    """Return the tokens of context, by what the server says and at most what was asked for."""
    if wanted is not None and wanted < 1:
        raise UsageError(f"a context of {wanted:,} makes no sense; give a number from 1")
    held = told.get("max_model_len")  # vLLM, SGLang
    if not isinstance(held, int):
        held = _context_of_llama_server(http) or _context_of_lm_studio(http, model) or _context_of_ollama(http, model)
    if held is None and wanted is None:
        raise UsageError(f"{who} does not say how many tokens its context holds; say it with --context")
    return min(each for each in (held, wanted) if each is not None)


def _context_of_llama_server(http: OpenAIHttp) -> int | None:
    return _told(lambda: int(http.get("/props")["default_generation_settings"]["n_ctx"]))


def _context_of_lm_studio(http: OpenAIHttp, model: str) -> int | None:
    listed = _told(lambda: {each["id"]: each for each in http.get("/api/v0/models")["data"]})
    return _told(lambda: int((listed or {})[model]["loaded_context_length"]))


def _context_of_ollama(http: OpenAIHttp, model: str) -> int | None:
    """Have Ollama load the model, for it says the context of loaded ones only (``ollama ps``)."""
    if _told(lambda: http.get("/api/version")["version"]) is None:
        return None
    _told(lambda: http.post("/api/generate", {"model": model, "stream": False}, seconds=_LOADING_SECONDS))
    loaded = _told(lambda: {each["name"]: each for each in http.get("/api/ps")["models"]})
    return _told(lambda: int((loaded or {})[model]["context_length"]))


def _prompts(http: OpenAIHttp, model: str) -> Prompts:
    """Return how to tell the server of a prompt: by tokens, if it has a tokenizer that renders chats and goes back."""
    asked = ServedTokens(http, model, Markers(None))
    if _told(lambda: bool(asked.plain("one two")) and asked.works()):
        return asked
    llama = LlamaTokens(http, model)
    if _told(lambda: bool(llama.plain("one two")) and llama.works()):
        return llama
    return ChatOnly()


_Told = TypeVar("_Told")


def _told(ask: Callable[[], _Told]) -> _Told | None:
    """Return what ``ask`` gets of the server; None where the server does not know that, or answers otherwise.

    Its refusal of the key is passed on.
    """
    try:
        return ask()
    except KeyRefused:
        raise
    except (EngineError, KeyError, TypeError, ValueError, AttributeError):
        return None
