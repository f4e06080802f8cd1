"""A model in Hugging Face transformers, laid out by Accelerate over accelerators, memory and disk.

Runs in a child only (``engine.transformers_child``): torch and transformers are imported here, for models.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quietmind.engine.markers import markers_of


@dataclass(frozen=True)
class ModelOptions:
    """How to load a model; the words are those of ``plan.flags_transformers``.

    ``device_map`` is ``cpu`` for all on the host, or names a device for each module: a GPU's number, ``mps``, ``cpu``
    or ``disk``; layers are ``model.layers.N`` there, whatever the architecture calls them. ``batch`` tokens of a prompt
    are computed at once. ``config`` is merged into the model's configuration: experts used, positions past the native
    context. ``max_memory`` in bytes a device; ``offload_folder`` takes what is on ``disk`` and is not stored the way
    that it is used.
    """

    model: Path
    context: int
    batch: int = 512
    dtype: str = "auto"
    device_map: str | Mapping[str, int | str] = "cpu"
    max_memory: Mapping[str, int] = field(default_factory=dict)
    threads: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    offload_folder: Path | None = None

    @classmethod
    def from_words(cls, words: Sequence[str]) -> ModelOptions:
        """Read ``key=value`` words. Raises ValueError for one that says nothing to us."""
        given: dict[str, Any] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or key not in cls.__dataclass_fields__ or key in given:
                raise ValueError(f"{word!r} is no option of the transformers engine")
            given[key] = _READ.get(key, str)(value)
        return cls(**given)


_LAYER = re.compile(r"model\.layers\.(\d+)$")

_READ: Mapping[str, Callable[[str], Any]] = {
    "model": Path,
    "context": int,
    "batch": int,
    "device_map": lambda value: json.loads(value) if value.startswith("{") else value,
    "max_memory": json.loads,
    "threads": int,
    "config": json.loads,
    "offload_folder": Path,
}


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens. ``temperature`` 0 takes the likeliest."""

    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """So many of the prompt's tokens have been computed or were cached."""

    done: int


@dataclass(frozen=True)
class Piece:
    """The next stretch of text; empty where a token does not end a character."""

    text: str


@dataclass(frozen=True)
class Ended:
    """Why a generation ended, and what it took: tokens and milliseconds."""

    reason: str
    cached: int
    prompt: int
    prompt_ms: float
    predicted: int
    predicted_ms: float


class TransformersModel:
    """A loaded model with its tokenizer and the KV cache of the last prompt."""

    def __init__(self, options: ModelOptions) -> None:
        """Load the model. Raises whatever torch and transformers raise; nothing is fetched."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self.options = options
        self.tokenizer = AutoTokenizer.from_pretrained(options.model, local_files_only=True)
        config = AutoConfig.from_pretrained(options.model, local_files_only=True)
        _override(config, options.config)
        self._model = AutoModelForCausalLM.from_pretrained(
            options.model,
            config=config,
            dtype=options.dtype,
            device_map=_device_map(config, options),
            max_memory={_device(name): size for name, size in options.max_memory.items()} or None,
            offload_folder=options.offload_folder,
            use_safetensors=True,  # a pickle may run anything
            local_files_only=True,
            trust_remote_code=False,
        ).eval()
        ends = self._model.generation_config.eos_token_id
        self._ends = {ends} if isinstance(ends, int) else set(ends or ())
        if self.tokenizer.eos_token_id is not None:
            self._ends.add(self.tokenizer.eos_token_id)
        self._markers = markers_of(options.model)
        self._cache: Any = None
        self._cached: list[int] = []

    def encode(self, text: str, *, start: bool, plain: bool = False) -> list[int]:
        """Return the tokens of ``text``, with the tokenizer's start token if ``start``.

        ``plain``: none is a control token, whatever the text spells.
        """
        if not plain:
            return [int(token) for token in self.tokenizer.encode(text, add_special_tokens=start)]
        pieces = list(self._markers.cut(text))
        found = self.tokenizer(pieces, add_special_tokens=False)["input_ids"] if pieces else []
        return [int(token) for piece in found for token in piece]

    def decode(self, tokens: Sequence[int], *, control: bool = True) -> str:
        """Return the text of ``tokens``, control tokens spelled out or left out."""
        return str(
            self.tokenizer.decode(list(tokens), skip_special_tokens=not control, clean_up_tokenization_spaces=False)
        )

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """Return what the chat template makes of ``messages``. Raises ValueError where the model has none."""
        if not self.tokenizer.chat_template:
            raise ValueError("the model has no chat template; choose one that is made for conversations")
        return str(self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))

    def chat_tokens(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Return the tokens of a chat; what its messages say never becomes a control token. Raises ValueError."""
        # The template is given a word that nobody can guess in the place of each message, and so cannot mix them up.
        places = {f"q{secrets.token_hex(16)}q": str(each["content"]) for each in messages}
        shown = [{"role": each["role"], "content": place} for each, place in zip(messages, places, strict=True)]
        tokens: list[int] = []
        for piece in re.split(f"({'|'.join(places)})", self.render(shown)):
            tokens += self.encode(places.get(piece, piece), start=False, plain=piece in places)
        return tokens

    def generate(self, tokens: Sequence[int], sampling: Sampling) -> Generator[Progress | Piece | Ended]:
        """Yield the progress of the prompt, the text and the end. Leaving the iterator ends the generation."""
        import torch

        began = time.monotonic()
        cached = self._keep(tokens)
        text = _Text(self, sampling.stop)
        said: list[int] = []
        with torch.inference_mode():
            logits: Any = None
            for start in range(cached, len(tokens), self.options.batch):
                piece = list(tokens[start : start + self.options.batch])
                logits = self._forward(piece)
                yield Progress(start + len(piece))
            prefilled = time.monotonic()
            choose = _Chooser(sampling)
            reason = "length"
            while len(said) < sampling.max_tokens:
                if said:
                    logits = self._forward([said[-1]])
                said.append(choose(logits))
                if said[-1] in self._ends:
                    reason = "stop"
                    break
                yield Piece(text.add(said))  # of no length, too: whoever reads may have gone
                if text.stopped:
                    break
        if rest := text.rest(said):
            yield Piece(rest)
        if text.stopped:
            reason = "stop"
        now = time.monotonic()
        took = 1000 * (prefilled - began), 1000 * (now - prefilled)
        yield Ended(reason, cached, len(tokens) - cached, took[0], len(said), took[1])

    def _keep(self, tokens: Sequence[int]) -> int:
        """Cut the cache back to what it shares with ``tokens``, less the last, and return how many tokens that is."""
        from transformers import DynamicCache

        shared = 0
        while shared < min(len(tokens) - 1, len(self._cached)) and tokens[shared] == self._cached[shared]:
            shared += 1
        surplus = len(self._cached) - shared
        # Windows and recurrent states cannot be cut back to an earlier token.
        cuttable = self._cache is not None and all(type(each).__name__ == "DynamicLayer" for each in self._cache.layers)
        if self._cache is None or (surplus and not (cuttable and shared)):
            self._cache, self._cached = DynamicCache(config=self._model.config), []
            return 0
        if surplus:
            self._cache.crop(-surplus)
            self._cached = self._cached[:shared]
        return shared

    def _forward(self, tokens: list[int]) -> Any:
        """Return the logits after ``tokens``, a float32 tensor of the vocabulary's length; they are cached then."""
        import torch

        # Until it is done the cache may be half written, and then it belongs to no prompt.
        cache, before, self._cache, self._cached = self._cache, self._cached, None, []
        home = self._model.get_input_embeddings().weight.device
        output = self._model(
            # What is offloaded lies on "meta" until it is used; Accelerate then moves its input too.
            input_ids=torch.tensor([tokens], device=None if home.type == "meta" else home),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache, self._cached = cache, before + tokens
        return output.logits[0, -1].float().cpu()


class _Chooser:
    """Chooses tokens by their logits: the likeliest, or by chance from a seed of its own."""

    def __init__(self, sampling: Sampling) -> None:
        import torch

        self._temperature = sampling.temperature
        self._chance = torch.Generator().manual_seed(sampling.seed & (2**63 - 1))

    def __call__(self, logits: Any) -> int:
        import torch

        if self._temperature <= 0:
            return int(torch.argmax(logits))
        likely = torch.softmax(logits / self._temperature, dim=-1)
        return int(torch.multinomial(likely, 1, generator=self._chance))


class _Text:
    """Text from tokens as they come: whole characters only, and never a part of a stop string."""

    def __init__(self, model: TransformersModel, stop: Sequence[str]) -> None:
        self._model = model
        self._stop = [each for each in stop if each]
        self._settled = self._shown = 0  # tokens whose text is out; tokens that give the next ones their context
        self._held = ""
        self.stopped = False

    def add(self, tokens: Sequence[int]) -> str:
        """Return the text that the newest of ``tokens`` made certain."""
        context = self._model.decode(tokens[self._shown : self._settled], control=False)
        text = self._model.decode(tokens[self._shown :], control=False)
        if text.endswith("\ufffd"):  # a character in the making
            return ""
        self._held += text[len(context) :]
        self._shown, self._settled = self._settled, len(tokens)
        return self._release()

    def rest(self, tokens: Sequence[int]) -> str:
        """Return what is still held back at the end."""
        if self.stopped:
            return ""
        context = self._model.decode(tokens[self._shown : self._settled], control=False)
        self._held += self._model.decode(tokens[self._shown :], control=False)[len(context) :]
        released = self._release()
        return released + self._held

    def _release(self) -> str:
        found = min((at for each in self._stop if (at := self._held.find(each)) >= 0), default=None)
        if found is not None:
            released, self._held, self.stopped = self._held[:found], "", True
            return released
        kept = max(
            (size for each in self._stop for size in range(1, len(each)) if self._held.endswith(each[:size])), default=0
        )
        released, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return released


def _override(config: Any, overrides: Mapping[str, Any]) -> None:
    """Merge ``overrides`` into a configuration; those of a part of it are merged into the part."""
    for name, value in overrides.items():
        known = getattr(config, name, None)
        if isinstance(value, dict) and hasattr(known, "to_dict"):
            _override(known, value)
        else:
            setattr(config, name, {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value)


def _device_map(config: Any, options: ModelOptions) -> dict[str, Any] | None:
    """Return the device of each module, by the architecture's own names; None for all on the CPU.

    Raises ValueError for a map that is not of this model.
    """
    if isinstance(options.device_map, str):
        if options.device_map != "cpu":
            raise ValueError(f"device_map={options.device_map!r} names no devices; plan it again")
        return None  # one device is no matter for Accelerate
    if set(options.device_map) == {""}:
        return dict(options.device_map)
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    layers = {int(found[1]): device for name, device in options.device_map.items() if (found := _LAYER.match(name))}
    ends = next((device for name, device in options.device_map.items() if not _LAYER.match(name)), "cpu")
    with init_empty_weights():
        empty = AutoModelForCausalLM.from_config(config)
    stacks = {name: each for name, each in empty.named_modules() if isinstance(each, torch.nn.ModuleList)}
    where = next((name for name, each in stacks.items() if set(range(len(each))) == set(layers)), None)
    if where is None:
        raise ValueError(f"the model has no {len(layers)} layers to lay out; plan it again")
    placed = {f"{where}.{number}": device for number, device in layers.items()}
    # Everything beside the layers, on each floor down to them.
    above = where.split(".")
    for depth in range(len(above)):
        floor = ".".join(above[:depth])
        for name, _ in empty.get_submodule(floor).named_children():
            if name != above[depth]:
                placed[f"{floor}.{name}" if floor else name] = ends
    return placed


def _device(name: str) -> int | str:
    return int(name) if name.isdecimal() else name
