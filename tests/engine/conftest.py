"""The small model that these tests run on, and one engine with it for all tests that leave it alive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quietmind.base.paths import models_folder
from quietmind.engine.llamacpp import LlamaCpp, LlamaCppOptions

MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def model_path() -> Path:
    path = models_folder() / MODEL_FILE
    if not path.is_file():
        pytest.skip(f"{MODEL_FILE} is not in the models folder; run `quietmind pull tiny`")
    return path


@pytest.fixture(scope="session")
def options(model_path: Path) -> LlamaCppOptions:
    # One thread: two of them spin while they wait for each other, and crawl on a busy machine of two cores.
    return LlamaCppOptions(model_path, context=512, threads=1, batch=256, micro_batch=256, silence_timeout_s=20)


@pytest.fixture(scope="session")
def engine(options: LlamaCppOptions) -> Iterator[LlamaCpp]:
    with LlamaCpp.start(options) as engine:
        yield engine
