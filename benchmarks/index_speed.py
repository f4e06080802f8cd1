"""How fast an archive is indexed, looked through again and searched.

    python benchmarks/index_speed.py [PAGES] [--profile]

The pages are invented here: 2.5 KB of Markdown each, Russian and English, words drawn by Zipf's law from
inflected stems, so that a dictionary lemmatizer has real and unknown forms to work on. The same seed gives the same
pages.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import platform
import pstats
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from quietmind.base.sqlite import connect
from quietmind.notes.index import Index
from quietmind.notes.schema import MIGRATIONS
from quietmind.notes.search import search

T = TypeVar("T")

PAGE_BYTES = 2500
# What one core of a slow server Xeon did; how far another machine is from it shows in the difference.
PREDICTED_MB_PER_S = 1.2
PREDICTED_RESCAN_US_PER_PAGE = 15

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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="?", type=int, default=2000)
    parser.add_argument("--profile", action="store_true", help="say where the time of the first indexing goes")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quietmind-bench-") as folder:
        root = Path(folder) / "notes"
        size = write_pages(root, asked.pages, random.Random(1))
        predicted = size / 1e6 / PREDICTED_MB_PER_S
        rescan = asked.pages * PREDICTED_RESCAN_US_PER_PAGE / 1e6
        print(f"{asked.pages:,} pages, {size / 1e6:.1f} MB")
        print(f"predicted: first index {predicted:.1f} s, second run {rescan:.2f} s")
        result = measure(root, Path(folder) / "archive.db", asked.pages, size, profile=asked.profile)
    print(
        f"measured:  first index {result['first_s']:.1f} s ({result['pages_per_s']:.0f} pages/s, "
        f"{result['mb_per_s']:.2f} MB/s), second run {result['second_s']:.2f} s, one changed file "
        f"{result['one_changed_s']:.2f} s, a query {result['query_ms']:.1f} ms, "
        f"peak memory {result['peak_mb']:.0f} MB, database {result['database_mb']:.1f} MB"
    )
    print(json.dumps(result | {"predicted_first_s": predicted, "predicted_second_s": rescan}))


def measure(root: Path, database: Path, pages: int, size: int, *, profile: bool) -> dict[str, float | str]:
    """Index ``root`` three times (new, unchanged, one file changed) and search; seconds, MB of 10**6 bytes."""
    connection = connect(database, MIGRATIONS)
    index = Index(connection, database)
    time.sleep(2.1)  # files written within the last two seconds are read again by design
    profiler = cProfile.Profile() if profile else None
    if profiler:
        profiler.enable()
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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return {
        "benchmark": "index_speed",
        "pages": pages,
        "mb": size / 1e6,
        "first_s": first,
        "pages_per_s": pages / first,
        "mb_per_s": size / 1e6 / first,
        "passages": report.passages,
        "second_s": second,
        "one_changed_s": one,
        "query_ms": 1000 * query / len(queries),
        "peak_mb": peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6,
        "database_mb": database.stat().st_size / 1e6,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that ``work`` took, and its result."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def write_pages(root: Path, count: int, chance: random.Random) -> int:
    """Write ``count`` pages below ``root``, 100 a folder, and return their size in bytes."""
    russian, english = vocabulary(chance)
    size = 0
    for number in range(count):
        words = english if number % 4 == 3 else russian
        data = page(number, words, chance).encode()
        folder = root / f"{number // 100:04}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"note {number}.md").write_bytes(data)
        size += len(data)
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
