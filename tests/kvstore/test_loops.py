"""Compiled loops and threads: the same snapshots with and without Numba, and nothing is left changed behind them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from threading import Barrier
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

from quietmind.kvstore.arrays import Shape, write
from quietmind.kvstore.codec import following, loops, rans
from quietmind.kvstore.codec.perchannel import PerChannel
from quietmind.kvstore.codec.places import Places
from quietmind.kvstore.codec.side_by_side import side_by_side
from quietmind.kvstore.floats import Floats
from quietmind.kvstore.rotation import Pairs, Rotation

needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="Numba is not here: install quietmind[compiled]")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nothing imported yet, as far as the codecs know."""
    monkeypatch.setattr(loops, "_found", None)
    monkeypatch.setattr(loops, "_missing", False)


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def cache(rotation: Rotation, tokens: int, width: int) -> bytes:
    chance = np.random.default_rng(1)
    plane = chance.normal(2, 3, (2, tokens, width)).astype(np.float32)
    sink = io.BytesIO()
    shape = Shape(tokens, tokens, "f16", ((width, width),))
    write(sink, shape, range(tokens), range(tokens), [(plane[0], plane[1])])
    return sink.getvalue()


@needs_numba
@pytest.mark.usefixtures("fresh")
class TestCompiled:
    @pytest.mark.parametrize("shifts", [None, np.arange(300) % 4 - 1])
    def test_what_is_coded_is_the_same_to_the_byte(self, shifts: rans.Shifts | None) -> None:
        chance = np.random.default_rng(3)
        numbers = np.rint(chance.laplace(size=(300, 900)) * np.geomspace(0.01, 90, 900)).astype(np.int32)
        numbers[:, ::7] = 0
        classes = rans.choose(numbers, shifts)
        content = rans.encode(numbers, classes, shifts)
        loops.prepare(np.inf)
        assert loops.found() is not None
        np.testing.assert_array_equal(rans.choose(numbers, shifts), classes)
        assert rans.encode(numbers, classes, shifts) == content

    def test_tokens_follow_each_other_the_same_to_the_bit(self) -> None:
        chance = np.random.default_rng(4)
        components = chance.normal(0, np.geomspace(40, 0.1, 90), (500, 90)).astype(np.float32)
        times = np.exp2(chance.integers(0, 4, (500, 1)) / 4).astype(np.float32)
        places = Places.of(chance.integers(0, 60, 500).tolist(), range(500))

        def there_and_back() -> list[NDArray[Any]]:
            learned = following.learned(components.copy(), times, places)
            parts, again = following.spread(learned, 90), components.copy()
            symbols, deviations = following.rounded(again, times, parts, places)
            read: Floats = np.multiply(symbols, 1 / times, dtype=np.float32)
            following.follow(read, parts, places)
            return [learned, symbols, deviations, again, read]

        slowly = there_and_back()
        loops.prepare(np.inf)
        assert loops.found() is not None
        for one, other in zip(slowly, there_and_back(), strict=True):
            np.testing.assert_array_equal(one, other)

    @pytest.mark.parametrize("pairs", Pairs)
    @pytest.mark.parametrize("turning", [64, 32])
    def test_what_is_unpacked_is_the_same_to_the_last_bit_of_a_pair(self, pairs: Pairs, turning: int) -> None:
        rotation = Rotation(pairs, 64, turning, 1e4)
        content = cache(rotation, 1000, 128)
        blocks = list(PerChannel(rotation).encode(io.BytesIO(content), len(content)))
        found = []
        for seconds in (0.0, np.inf):
            loops.prepare(seconds)
            target = bytearray(len(content))
            PerChannel().decode(blocks, memoryview(target))
            found.append(np.frombuffer(target, np.float16)[-2 * 1000 * 128 :].astype(np.float32))
        np.testing.assert_allclose(found[1], found[0], rtol=2**-10, atol=1e-4)


@pytest.mark.usefixtures("fresh")
class TestWhetherToCompile:
    def test_a_small_cache_is_not_worth_it(self) -> None:
        loops.prepare(0.1)
        assert loops.found() is None

    def test_it_can_be_switched_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(loops.SWITCH, "off")
        loops.prepare(100.0)
        assert loops.found() is None

    def test_without_numba_numpy_does_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "quietmind.kvstore.codec.compiled", raising=False)
        monkeypatch.setitem(sys.modules, "numba", None)
        loops.prepare(100.0)
        assert loops.found() is None

    @needs_numba
    def test_on_a_disk_that_takes_no_more_numpy_does_it(self, tmp_path: Path) -> None:
        script = """
import resource
import numpy as np
from quietmind.kvstore.codec import loops, rans
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
loops.prepare(np.inf)
print(loops.found(), len(rans.choose(np.ones((20, 30), np.int32), None)))
"""
        told = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (told.stdout, told.returncode) == ("None 30\n", 0), told.stderr


class TestThreadsOfProducts:
    def test_each_product_is_made_in_one_thread_and_then_all_is_as_before(self) -> None:
        before = blas_threads()
        seen = list(side_by_side(lambda _: blas_threads(), range(3)))
        assert seen == 3 * [[1] * len(before)]
        assert blas_threads() == before

    def test_work_that_overlaps_leaves_nothing_behind(self) -> None:
        before, both = blas_threads(), Barrier(2)

        def work(pieces: int) -> list[list[int]]:
            both.wait()
            return list(side_by_side(lambda _: blas_threads(), range(pieces)))

        with ThreadPoolExecutor(2) as pool:
            found = [*pool.map(work, (2, 40))]
        assert {number for seen in found for threads in seen for number in threads} <= {1}
        assert blas_threads() == before

    def test_work_that_fails_or_is_left_leaves_nothing_behind(self) -> None:
        before = blas_threads()

        def pieces() -> Iterator[int]:
            yield 1
            raise EOFError("cut")

        with pytest.raises(EOFError):
            list(side_by_side(lambda piece: piece, pieces()))
        with closing(cast(Generator[int], side_by_side(lambda piece: piece, range(9)))) as left:
            next(left)
        assert blas_threads() == before
