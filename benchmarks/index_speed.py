"""How fast an archive is indexed, looked through again and searched.

    python benchmarks/index_speed.py [COUNT] [--pages DIR] [--growth N ...] [--profile]

For instance `20000 --growth 50000 100000 200000`. Without DIR the pages are invented: 2.5 KB of Markdown each, Russian
and English, words drawn by Zipf's law from inflected stems, so that a dictionary lemmatizer has real and unknown forms
to work on; the same each time.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import platform
import pstats
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import psutil

from quietmind.base.sqlite import connect
from quietmind.notes.index import Index
from quietmind.notes.readers import readers_for
from quietmind.notes.schema import MIGRATIONS
from quietmind.notes.search import search
from quietmind.notes.watching import follow

T = TypeVar("T")

PAGE_BYTES = 2500
# What one core of a slow server Xeon did; how far another machine is from it shows in the difference.
PREDICTED_MB_PER_S = 1.2
PREDICTED_RESCAN_US_PER_PAGE = 15
SETTLING_S = 2.1  # files written within the last two seconds are read again by design
LOST_S = 60.0

RUSSIAN_NOUNS = """систем памят запрос ответ документ модел контекст архив индекс заметк строк страниц вопрос ошибк
проверк требован функц экран кнопк пользовател доступ парол сет скорост чтен запис поиск ключ окн сервер файл папк текст
решен вариант причин ссылк таблиц список график отчёт журнал событ сообщен канал датчик насос клапан питан заряд батаре
температур влажност растен теплиц полив распис режим настройк обновлен версия ветк сборк тест пример план задач
проект команд встреч срок бюджет договор поставк склад заказ клиент цен скидк оплат счёт налог"""
RUSSIAN_VERBS = """провер сохран загруж открыв закрыв показыв счита чита запуска останавлива обновля удаля добавля меня
получа отправля ожида сравнива выбира исправля описыва замеча обсужда реша записыва ищ находит"""
NOUN_ENDINGS = ["", "а", "у", "ом", "е", "ы", "ов", "ам", "ами", "ах", "и", "ой", "ей", "ия", "ию", "ии"]
VERB_ENDINGS = ["ть", "ет", "ем", "ют", "л", "ла", "ли", "ешь", "йте", "ющий", "вшая", "я"]
RUSSIAN_SMALL = "и в на не что это как для при если по с от к из у же но или только уже ещё"
ENGLISH = """system memory request answer document model context archive index note line page question error check
require function screen button user access password network speed read write search key window server file folder text
solve variant cause link table list chart report log event message channel sensor pump valve power charge battery plan
task project team meeting term budget contract supply store order client price pay bill tax cache token prefill decode
expert router snapshot passage notebook engine layer tensor batch quantize merge branch build test example"""
ENGLISH_ENDINGS = ["", "s", "ed", "ing", "er", "ly", "able", "ment"]
ENGLISH_SMALL = "the a of to in and is that for it with as on be this by from or not"


def main() -> None:
    """Print the prediction, then what was measured, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", nargs="?", type=int, help="pages: 2000 invented ones, or all of DIR")
    parser.add_argument("--pages", type=Path, metavar="DIR", help="notes to copy and measure with, not invented ones")
    parser.add_argument("--growth", type=int, nargs="+", metavar="N", help="go on to so many invented pages, and more")
    parser.add_argument("--profile", action="store_true", help="say where the time of the first indexing goes")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quietmind-bench-") as folder:
        root, database = Path(folder) / "notes", Path(folder) / "archive.db"
        invented = Invented(root)
        size = copy_pages(asked.pages, root, asked.count) if asked.pages else invented.write(asked.count or 2000)
        pages = sum(1 for path in root.rglob("*") if path.is_file())
        predicted = size / 1e6 / PREDICTED_MB_PER_S / max(1, readers_for(pages, size))
        rescan = pages * PREDICTED_RESCAN_US_PER_PAGE / 1e6
        print(f"{pages:,} pages, {size / 1e6:.1f} MB, {readers_for(pages, size) or 1} to read them")
        print(f"predicted: first index {predicted:.1f} s, second run {rescan:.2f} s")
        result = measure(root, database, pages, size, profile=asked.profile)
        print(
            f"measured:  first index {result['first_s']:.1f} s ({result['pages_per_s']:.0f} pages/s, "
            f"{result['mb_per_s']:.2f} MB/s), second run {result['second_s']:.2f} s, one changed file "
            f"{result['one_changed_s']:.2f} s, a query {result['query_ms']:.1f} ms, "
            f"peak memory {result['peak_mb']:.0f} MB, database {result['database_mb']:.1f} MB"
        )
        followed = saved_to_found(root, database)
        if followed:
            median = statistics.median(followed)
            print(f"           saved to found while watched {median:.2f} s, at most {max(followed):.2f} s")
        growth = [grown(invented, database, count) for count in asked.growth or ()]
    more = {"saved_to_found_s": followed, "growth": growth}
    print(json.dumps(result | {"predicted_first_s": predicted, "predicted_second_s": rescan} | more))


def measure(root: Path, database: Path, pages: int, size: int, *, profile: bool) -> dict[str, float | str]:
    """Index ``root`` three times (new, unchanged, one file changed) and search; seconds, MB of 10**6 bytes."""
    connection = connect(database, MIGRATIONS)
    index = Index(connection, database)
    time.sleep(SETTLING_S)
    profiler = cProfile.Profile() if profile else None
    if profiler:
        profiler.enable()
    with watched_memory() as memory:
        first, report = timed(lambda: index.update(root))
    if profiler:
        profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
    second, _ = timed(lambda: index.update(root))
    changed = sorted(root.rglob("*.md"))[0]
    changed.write_text(changed.read_text(encoding="utf-8") + "\nещё одна строка\n", encoding="utf-8")
    one, _ = timed(lambda: index.update(root))
    queries = ["как проверить память сервера", "cache of the prefill requests", "REQ-12 датчики температуры"]
    query, _ = timed(lambda: [search(connection, text) for text in queries])
    connection.close()
    return {
        "benchmark": "index_speed",
        "pages": pages,
        "mb": size / 1e6,
        "readers": readers_for(pages, size),
        "first_s": first,
        "pages_per_s": pages / first,
        "mb_per_s": size / 1e6 / first,
        "passages": report.passages,
        "second_s": second,
        "one_changed_s": one,
        "query_ms": 1000 * query / len(queries),
        "peak_mb": max(memory),
        "database_mb": database.stat().st_size / 1e6,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def saved_to_found(root: Path, database: Path, rounds: int = 5) -> list[float]:
    """Return the seconds from saving a note of a watched folder until a search finds it; none without watchfiles."""
    if find_spec("watchfiles") is None:
        return []
    current, done = threading.Event(), threading.Event()

    def watch() -> None:
        with closing(connect(database, MIGRATIONS)) as connection:
            for _ in follow(Index(connection, database), [root.resolve()]):
                current.set()
                if done.is_set():
                    return

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    current.wait()
    time.sleep(1.0)
    took = []
    with closing(connect(database, MIGRATIONS)) as connection:
        for number in range(rounds):
            word = f"слово{number}новое"
            began = time.perf_counter()
            (root / f"saved {number}.md").write_text(f"# Заметка\n\n{word}\n", encoding="utf-8")
            while not any(word in hit.passage.text for hit in search(connection, word, 3)):
                if time.perf_counter() - began > LOST_S:
                    raise RuntimeError(f"what was saved is not found within {LOST_S:.0f} s")
                time.sleep(0.01)
            took.append(time.perf_counter() - began)
    done.set()
    (root / "saved last.md").write_text("следующее событие\n", encoding="utf-8")
    watching.join()
    return took


def grown(invented: Invented, database: Path, count: int) -> dict[str, float]:
    """Go on to ``count`` pages; return how fast the new ones were indexed, and what all of them take."""
    before = invented.count
    size = invented.write(count - before)
    time.sleep(SETTLING_S)
    with closing(connect(database, MIGRATIONS)) as connection:
        index = Index(connection, database)
        with watched_memory() as memory:
            took, _ = timed(lambda: index.update(invented.root))
        with watched_memory() as again:
            rescan, _ = timed(lambda: index.update(invented.root))
        query, _ = timed(lambda: search(connection, "как проверить память сервера"))
    print(
        f"grown:     {before:,} to {count:,} pages in {took:.1f} s ({(count - before) / took:.0f} pages/s, "
        f"{size / 1e6 / took:.2f} MB/s), second run {rescan:.2f} s, a query {1000 * query:.0f} ms, "
        f"peak memory {max(memory):.0f} MB, of the second run {max(again):.0f} MB",
        flush=True,
    )
    return {
        "pages": count,
        "seconds": took,
        "pages_per_s": (count - before) / took,
        "second_s": rescan,
        "query_ms": 1000 * query,
        "peak_mb": max(memory),
        "second_peak_mb": max(again),
        "database_mb": database.stat().st_size / 1e6,
    }


@contextmanager
def watched_memory() -> Iterator[list[float]]:
    """Look at the memory of this process and its children ten times a second; MB, shared pages counted for each."""
    seen: list[float] = []
    done = threading.Event()

    def watch() -> None:
        own = psutil.Process()
        while not done.wait(0.1) or not seen:
            total = 0
            for process in (own, *own.children(recursive=True)):
                with suppress(psutil.Error):
                    total += process.memory_info().rss
            seen.append(total / 1e6)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        done.set()
        watching.join()


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that ``work`` took, and its result."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def copy_pages(pages: Path, root: Path, count: int | None) -> int:
    """Copy the notes below ``pages``, or ``count`` of them drawn by chance, and return their size in bytes."""
    chosen = sorted(path for path in pages.rglob("*.md") if path.is_file())
    if count is not None:
        chosen = random.Random(1).sample(chosen, min(count, len(chosen)))
    size = 0
    for path in chosen:
        copy = root / path.relative_to(pages)
        copy.parent.mkdir(parents=True, exist_ok=True)
        size += copy.write_bytes(path.read_bytes())
    return size


class Invented:
    """Invented pages below ``root``, 100 a folder; the same each time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.count = 0
        self._chance = random.Random(1)
        self._russian, self._english = vocabulary(self._chance)

    def write(self, count: int) -> int:
        """Write ``count`` more pages and return their size in bytes."""
        size = 0
        for number in range(self.count, self.count + count):
            words = self._english if number % 4 == 3 else self._russian
            folder = self.root / f"{number // 100:04}"
            folder.mkdir(parents=True, exist_ok=True)
            size += (folder / f"note {number}.md").write_bytes(page(number, words, self._chance).encode())
        self.count += count
        return size


def vocabulary(chance: random.Random) -> tuple[Iterator[str], Iterator[str]]:
    """Return endless Russian and English words. Every form of every stem, the rank of a form decided by chance."""
    nouns, verbs, english = RUSSIAN_NOUNS.split(), RUSSIAN_VERBS.split(), ENGLISH.split()
    forms = [stem + end for stem in nouns for end in NOUN_ENDINGS]
    forms += [stem + end for stem in verbs for end in VERB_ENDINGS]
    # Compounds stand for the long tail of a real vocabulary: names, terms, words no dictionary has.
    tail = [one + "о" + other for one in nouns for other in forms[::5]]
    latin = [stem + end for stem in english for end in ENGLISH_ENDINGS]
    latin_tail = [one + other for one in english for other in latin[::9]]
    return stream(RUSSIAN_SMALL.split(), forms, tail, chance), stream(ENGLISH_SMALL.split(), latin, latin_tail, chance)


def stream(small: list[str], forms: list[str], tail: list[str], chance: random.Random) -> Iterator[str]:
    """Yield words: three in ten small, one in thirty of the tail, the others by Zipf's law (exponent 1)."""
    forms = chance.sample(forms, len(forms))
    weights = [1 / (rank + 10) for rank in range(len(forms))]
    while True:
        for word in chance.choices(forms, weights, k=1000):
            draw = chance.random()
            if draw < 0.3:
                yield chance.choice(small)
            elif draw < 0.333:
                yield chance.choice(tail)
            yield word


def page(number: int, words: Iterator[str], chance: random.Random) -> str:
    """Return a page of about PAGE_BYTES: headings, paragraphs, a list, a table, code, identifiers, a link."""
    parts = [f"# {sentence(words, chance)}", f"REQ-{number} [[note {chance.randrange(number + 1)}]]"]
    while sum(len(part.encode()) for part in parts) < PAGE_BYTES - 200:
        kind = chance.randrange(8)
        if kind == 0:
            parts.append(f"## {sentence(words, chance)}")
        elif kind == 1:
            parts.append("\n".join(f"- {sentence(words, chance)}" for _ in range(4)))
        elif kind == 2:
            rows = "\n".join(f"| {next(words)} | {chance.randrange(1000)} |" for _ in range(4))
            parts.append(f"| {next(words)} | {next(words)} |\n|---|---|\n{rows}")
        elif kind == 3:
            parts.append(f"```python\ndef step_{number}(x):\n    return x * {chance.randrange(99)}\n```")
        else:
            parts.append(" ".join(f"{sentence(words, chance)}." for _ in range(3)))
    return "\n\n".join(parts) + "\n"


def sentence(words: Iterator[str], chance: random.Random) -> str:
    """Return five to twelve words, the first with a capital."""
    return " ".join(next(words) for _ in range(chance.randrange(5, 13))).capitalize()


if __name__ == "__main__":
    main()
