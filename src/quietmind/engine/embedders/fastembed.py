"""``fastembed:MODEL_OR_FOLDER``: ONNX models by the library fastembed, on the processor, from files that are here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quietmind.base.errors import (
    EngineMissing,
    EngineOutOfMemory,
    EngineRefused,
    EngineStartFailed,
    ModelNotFound,
    QuietmindError,
    UsageError,
)
from quietmind.base.paths import models_folder, shown_path
from quietmind.engine.embedders.local import config, digest_of, folder_of, given_folder, offline, plain
from quietmind.engine.embedders.prefixes import prefixes_said
from quietmind.engine.embedders.unit import unit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PREFIX = "fastembed:"
INSTALL = "pip install 'quietmind[fastembed]'"
_BATCH = 16  # texts that are padded to one length, so those of like lengths go together
# Where exporters put the weights, the exact ones first.
_WEIGHTS = ("model.onnx", "onnx/model.onnx", "model_optimized.onnx", "onnx/model_quantized.onnx")
# What 1_Pooling/config.json of sentence-transformers says, before and since version 6, as the library's PoolingType.
_POOLINGS = {
    "mean_tokens": "MEAN",
    "mean": "MEAN",
    "cls_token": "CLS",
    "cls": "CLS",
    "lasttoken": "LAST_TOKEN",
}
_POOLING_FLAG = "pooling_mode_"


def installed() -> bool:
    """Say whether the library is there. Imports nothing."""
    return find_spec("fastembed") is not None


class FastEmbed:
    """A model that the library knows, or any exported one with its pooling, in a folder.

    Those that it knows are looked for below our models folder, then where the library keeps what it fetched; nothing is
    fetched. Raises EngineMissing, ModelNotFound, EngineStartFailed, UsageError.
    """

    most_tokens = None

    def __init__(self, model: str, threads: int = 1) -> None:
        given = given_folder(model)
        self.name = PREFIX + (str(given) if given else model)
        try:
            with offline(threads):
                from fastembed import TextEmbedding

                _silence()
                registered = _exported(given) if given else _known(model)
                self._model: Any = TextEmbedding(
                    registered,
                    threads=threads,
                    providers=["CPUExecutionProvider"],
                    local_files_only=True,
                    specific_model_path=_text(given or folder_of(model)),
                )
                folder = Path(self._model.model._model_dir)  # the library has no other way to ask for it
                weights = str(self._model.model.model_description.model_file)
        except ImportError as error:
            raise EngineMissing(
                f"the embedder {self.name} needs a library ({error}); {INSTALL}, or choose another with --embedder"
            ) from error
        except QuietmindError:
            raise
        except Exception as error:  # the library's own, the runtime's, the tokenizer's, the file system's: all end here
            if "Could not load model" in str(error):
                raise _not_here(model) from error
            raise EngineStartFailed(
                f"{self.name} cannot be loaded ({error}); fetch the model again, or choose another with --embedder"
            ) from error
        said = config(folder, "config_sentence_transformers.json")
        self._prefixes = prefixes_said(said, folder.name if given else model)
        self.dimensions: int = len(self._vectors(self._model.query_embed, ["one two"], None)[0])
        self.digest = digest_of(folder, "fastembed", repr(self._prefixes), weights=weights)

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of ``texts``, float32 [n, dimensions]."""
        import numpy as np

        wanted = [self._prefixes.passage + text for text in texts]
        order = sorted(range(len(wanted)), key=lambda index: len(wanted[index]))
        made = self._vectors(self._model.passage_embed, [wanted[index] for index in order], self.dimensions)
        vectors = np.empty_like(made)
        vectors[order] = made
        return vectors

    def query(self, text: str) -> NDArray[np.float32]:
        """Return the vector of a query, float32 [dimensions]."""
        wanted = [self._prefixes.query + text]
        vector: NDArray[np.float32] = self._vectors(self._model.query_embed, wanted, self.dimensions)[0]
        return vector

    def close(self) -> None:
        """Do nothing: the model goes with the object."""

    def _vectors(self, encode: Any, texts: Sequence[str], dimensions: int | None) -> NDArray[np.float32]:
        import numpy as np

        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        try:
            made = list(encode(plain(texts), batch_size=_BATCH))
        except MemoryError as error:
            raise EngineOutOfMemory(f"{self.name} ran out of memory; choose a smaller model with --embedder") from error
        except Exception as error:
            raise EngineRefused(f"{self.name} failed ({error}); choose another with --embedder") from error
        return unit(made, len(texts), dimensions, self.name)


def _known(model: str) -> str:
    """Return ``model`` if the library knows it. Raises UsageError."""
    from fastembed import TextEmbedding

    names = [str(each["model"]) for each in TextEmbedding.list_supported_models()]
    if model.casefold() not in map(str.casefold, names):
        multilingual = ", ".join(name for name in names if "multilingual" in name)
        raise UsageError(
            f"{model!r} is no model of fastembed and no folder; it knows {multilingual} and {len(names)} in all"
        )
    return model


def _exported(folder: Path) -> str:
    """Make the exported model in ``folder`` known to the library; return its name there. Raises EngineStartFailed."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    weights = next((name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise EngineStartFailed(
            f"{shown_path(folder)}: holds none of {', '.join(_WEIGHTS)}; name the folder of a model"
        )
    size = (config(folder, "config.json") or {}).get("hidden_size")
    if not isinstance(size, int):
        raise EngineStartFailed(
            f"{shown_path(folder / 'config.json')}: does not give hidden_size; fetch the model again"
        )
    pooling = PoolingType[_pooling(folder)]
    name = f"folder {folder} {digest_of(folder, weights=weights)}"  # known once, for as long as the process lives
    if name.casefold() not in {str(each["model"]).casefold() for each in TextEmbedding.list_supported_models()}:
        source = ModelSource(hf="none/none")  # one has to be named, and is not asked
        TextEmbedding.add_custom_model(name, pooling, True, source, size, weights)
    return name


def _pooling(folder: Path) -> str:
    """Return the PoolingType that makes one vector of the tokens. Raises EngineStartFailed where it is not said."""
    file = "1_Pooling/config.json"
    said = config(folder, file)
    facts: dict[str, object] = said if isinstance(said, dict) else {}
    modes = [name.removeprefix(_POOLING_FLAG) for name, on in facts.items() if name.startswith(_POOLING_FLAG) and on]
    modes += [str(facts["pooling_mode"])] if "pooling_mode" in facts else []
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise EngineStartFailed(
            f"{shown_path(folder / file)}: does not say which one of mean, cls and lasttoken makes one vector of the "
            "tokens; fetch the model with that file, or take one that fastembed knows by name"
        )
    return _POOLINGS[modes[0]]


def _not_here(model: str) -> ModelNotFound:
    from fastembed.common.utils import define_cache_dir

    return ModelNotFound(
        f"{PREFIX}{model}: neither in {shown_path(models_folder() / model)} nor in {shown_path(define_cache_dir())} "
        "(FASTEMBED_CACHE_PATH); put its files into one of them, or name their folder"
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _silence() -> None:
    """Keep the library's log off the terminal; what is wrong comes as an error."""
    from loguru import logger

    logger.disable("fastembed")
