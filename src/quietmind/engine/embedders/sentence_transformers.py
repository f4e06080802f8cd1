"""``sentence-transformers:MODEL_OR_FOLDER``: models of the library sentence-transformers, from files that are here.

Runs on the processor: an accelerator's memory belongs to the language model, whose plan knows nothing of this one. A
server of embeddings (endpoint.py) is the way to use one.
"""

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
)
from quietmind.base.paths import models_folder, shown_path
from quietmind.engine.embedders.local import config, digest_of, folder_of, given_folder, offline, plain
from quietmind.engine.embedders.prefixes import prefixes_said
from quietmind.engine.embedders.unit import unit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PREFIX = "sentence-transformers:"
INSTALL = "pip install 'quietmind[sentence-transformers]'"
_BATCH = 16  # texts that are padded to one length; the library sorts them by length first


def installed() -> bool:
    """Say whether the library is there. Imports nothing."""
    return find_spec("sentence_transformers") is not None


class SentenceTransformers:
    """The model at a path, or of the name OWNER/NAME below our models folder or in the Hugging Face cache.

    Nothing is fetched, and no code that comes with a model is run. Raises EngineMissing, ModelNotFound,
    EngineStartFailed, UsageError. The number of threads holds for all of torch in this process.
    """

    def __init__(self, model: str, threads: int = 1) -> None:
        given = given_folder(model)
        self.name = PREFIX + (str(given) if given else model)
        try:
            with offline(threads):
                import torch
                from sentence_transformers import SentenceTransformer

                folder = folder_of(model) or _cached(model)
                _check(folder)
                torch.set_num_threads(threads)
                _silence()
                self._model: Any = SentenceTransformer(
                    str(folder), device="cpu", local_files_only=True, trust_remote_code=False
                )
        except ImportError as error:
            raise EngineMissing(
                f"the embedder {self.name} needs a library ({error}); {INSTALL}, or choose another with --embedder"
            ) from error
        except QuietmindError:
            raise
        except Exception as error:  # the library's own, torch's, the tokenizer's, the file system's: all end here
            raise EngineStartFailed(
                f"{self.name} cannot be loaded ({error}); fetch the model again, or choose another with --embedder"
            ) from error
        self._prefixes = prefixes_said({"prompts": self._model.prompts}, given.name if given else model)
        self.most_tokens: int | None = self._model.max_seq_length
        self.dimensions: int = len(self._vectors(self._model.encode_query, "one two", ["one two"], None)[0])
        self.digest = digest_of(folder, "sentence-transformers", repr(self._prefixes))

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of ``texts``, float32 [n, dimensions]."""
        return self._vectors(self._model.encode_document, self._prefixes.passage, texts, self.dimensions)

    def query(self, text: str) -> NDArray[np.float32]:
        """Return the vector of a query, float32 [dimensions]."""
        vector: NDArray[np.float32] = self._vectors(
            self._model.encode_query, self._prefixes.query, [text], self.dimensions
        )[0]
        return vector

    def close(self) -> None:
        """Do nothing: the model goes with the object."""

    def _vectors(self, encode: Any, prompt: str, texts: Sequence[str], dimensions: int | None) -> NDArray[np.float32]:
        import numpy as np

        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        try:
            made = encode(plain(texts), prompt=prompt, batch_size=_BATCH, show_progress_bar=False)
        except MemoryError as error:
            raise EngineOutOfMemory(f"{self.name} ran out of memory; choose a smaller model with --embedder") from error
        except Exception as error:
            raise EngineRefused(f"{self.name} failed ({error}); choose another with --embedder") from error
        return unit(made, len(texts), dimensions, self.name)


def _check(folder: Path) -> None:
    """Raise EngineStartFailed for a folder that does not say how tokens become a vector, or brings code of its own."""
    modules = config(folder, "modules.json")
    if modules is None:
        raise EngineStartFailed(
            f"{shown_path(folder)}: holds no modules.json, so how its tokens become one vector is not known; take a "
            "model that is made for sentence-transformers"
        )
    try:
        types = [str(each["type"]) for each in modules]
    except (KeyError, TypeError) as error:
        raise EngineStartFailed(
            f"{shown_path(folder / 'modules.json')}: is no list of modules; fetch the model again"
        ) from error
    for name in types:
        if not name.startswith("sentence_transformers."):
            raise EngineStartFailed(
                f"{shown_path(folder / 'modules.json')}: asks for code of its own ({name}), which is not run; choose "
                "another model with --embedder"
            )


def _cached(model: str) -> Path:
    """Return the folder of the model in the Hugging Face cache. Raises ModelNotFound."""
    from huggingface_hub import constants, snapshot_download

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except Exception as error:  # not there, there in part, or no name of a repository
        cache = shown_path(constants.HF_HUB_CACHE)
        raise ModelNotFound(
            f"{PREFIX}{model}: neither in {shown_path(models_folder() / model)} nor in {cache}; put the files of its "
            f"repository there (`hf download {model}` does), or name their folder"
        ) from error


def _silence() -> None:
    """Keep the libraries' bars and advice off the terminal; what is wrong comes as an error."""
    import logging

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
