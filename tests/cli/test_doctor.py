"""``quietmind doctor`` as a person runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Quietmind = Callable[..., subprocess.CompletedProcess[str]]


def test_the_exit_code_says_whether_something_hinders(quietmind: Quietmind, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('model = "no-such-model"\n', encoding="utf-8")
    done = quietmind("doctor")
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    (line,) = [line for line in done.stdout.splitlines() if "no-such-model" in line]
    assert line.startswith("FIX ")
    assert line.endswith("-> quietmind pull no-such-model")


def test_its_json_holds_every_finding(quietmind: Quietmind) -> None:
    done = quietmind("doctor", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == (1 if document["hinders"] else 0)
    for finding in document["findings"]:
        assert finding.keys() == {"subject", "level", "text", "fix"}
        assert finding["level"] in ("fine", "better", "hinders")
    assert document["hinders"] == any(finding["level"] == "hinders" for finding in document["findings"])
