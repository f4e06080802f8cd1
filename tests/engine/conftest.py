"""The small model that these tests run on, and one engine with it for all tests that leave it alive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quietmind.base.errors import ModelNotFound
from quietmind.engine.llamacpp import LlamaCpp, LlamaCppOptions
from quietmind.model.locate import locate


@pytest.fixture(scope="session")
def model_path() -> Path:
    try:
        return locate("tiny")
    except ModelNotFound:
        pytest.skip("the small model is not here: run `quietmind pull tiny`")


@pytest.fixture(scope="session")
def options(model_path: Path) -> LlamaCppOptions:
    # One thread: two of them spin while they wait for each other, and crawl on a busy machine of two cores.
    return LlamaCppOptions(model_path, context=512, threads=1, batch=256, micro_batch=256, silence_timeout_s=20)


@pytest.fixture(scope="session")
def engine(options: LlamaCppOptions) -> Iterator[LlamaCpp]:
    with LlamaCpp.start(options) as engine:
        yield engine
