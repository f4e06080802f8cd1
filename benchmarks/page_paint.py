"""How soon the page is there: first paint in a real Chromium, from a `quietmind up` of its own or one that runs.

    python benchmarks/page_paint.py [URL] [--times 20]

Without an address it runs ``quietmind up tiny`` over the example archive on a free port. Each time opens the page in a
browser profile without a cache, then once more with what that left there. Prints a prediction, a line for each of the
two, and one line of JSON: milliseconds from the start of the navigation, bytes and requests, by the browser's own
clock (Paint Timing, Resource Timing). ``usable`` is when a question can be written. ``control`` is one small picture
from the same address: what the browser takes on this machine, as busy as it is, for anything at all.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LIMIT_MS = 200
EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "archive"
PICTURE = "/page/files/mark.svg"
PAINTED = """() => performance.getEntriesByName("first-paint")[0]?.startTime ?? null"""
MEASURED = """() => ["usable", "first-paint"].every((name) => performance.getEntriesByName(name).length > 0)"""
READ = """() => ({
    painted: performance.getEntriesByName("first-paint")[0]?.startTime,
    contentful: performance.getEntriesByName("first-contentful-paint")[0]?.startTime,
    loaded: performance.getEntriesByType("navigation")[0].domContentLoadedEventEnd,
    usable: performance.getEntriesByName("usable")[0].startTime,
    requests: 1 + performance.getEntriesByType("resource").length,
    bytes: [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
        .reduce((sum, each) => sum + each.transferSize, 0),
})"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("url", nargs="?")
    parser.add_argument("--times", type=int, default=20)
    asked = parser.parse_args()
    print(f"predicted: first paint below {LIMIT_MS} ms, from nothing and again")
    with address(asked.url) as url:
        measured = measure(url, asked.times)
    for name, runs in measured.items():
        painted = runs["painted"]
        print(
            f"{name}: first paint {painted['median']:.0f} ms (best {painted['best']:.0f}, worst {painted['worst']:.0f})"
        )
    print(json.dumps({"limit_ms": LIMIT_MS, "times": asked.times, **measured}))


@contextmanager
def address(url: str | None) -> Iterator[str]:
    """Yield ``url``, or the address of a `quietmind up` that lasts as long as the block."""
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory() as workspace:
        given = os.environ | {"QUIETMIND_WORKSPACE": workspace}
        ours = [sys.executable, "-m", "quietmind"]
        subprocess.run([*ours, "index", str(EXAMPLES)], env=given, check=True, stdout=subprocess.DEVNULL)
        process = subprocess.Popen(
            [*ours, "up", "tiny", "--context", "2k", "--port", "0"],
            env=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        try:
            assert process.stdout is not None
            found = re.search(r"http://[\w.:\[\]]+", process.stdout.readline())
            if found is None:
                sys.exit("quietmind up tiny did not come up; fetch the model with `quietmind pull tiny`")
            yield found[0]
        finally:
            process.terminate()
            process.wait()


def measure(url: str, times: int) -> dict[str, dict[str, Any]]:
    """Return what opening ``url`` took in an empty browser (``cold``), with its cache (``warm``), and the control."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("there is no Chromium here: apt-get install chromium")
    runs: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    control: list[dict[str, float]] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(times):
            context = browser.new_context()
            page = context.new_page()
            page.add_init_script(
                """new MutationObserver((_, watching) => {
                    if (document.querySelector("#turns > *") === null) return;
                    performance.mark("usable");
                    watching.disconnect();
                }).observe(document, { childList: true, subtree: true });"""
            )
            for measured in runs.values():
                page.goto(url)
                while not page.evaluate(MEASURED):
                    page.wait_for_timeout(10)
                measured.append(page.evaluate(READ))
            page.goto(f"{url}{PICTURE}")
            while (painted := page.evaluate(PAINTED)) is None:
                page.wait_for_timeout(10)
            control.append({"painted": painted})
            context.close()
        browser.close()
    return {name: summed(each) for name, each in {**runs, "control": control}.items()}


def summed(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Return the best, the median and the worst of what was measured several times."""
    return {
        key: {
            "best": round(min(run[key] for run in runs), 1),
            "median": round(statistics.median(run[key] for run in runs), 1),
            "worst": round(max(run[key] for run in runs), 1),
        }
        for key in runs[0]
    }


if __name__ == "__main__":
    main()
