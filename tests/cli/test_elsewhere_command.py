"""A copy of the index elsewhere, as a person meets it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Server(Protocol):
    """See tests/conftest.py."""

    address: str
    key: str

    def close(self) -> None: ...


def test_the_copy_is_kept_asked_first_told_of_and_done_without(
    quietmind: Callable[..., subprocess.CompletedProcess[str]],
    mortal_qdrant: Server,
    tmp_path: Path,
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "pump.md").write_text("# Pump\n\nThe pump is old.\n", encoding="utf-8")
    key_file = tmp_path / "key"
    key_file.write_text(mortal_qdrant.key)
    key_file.chmod(0o600)
    (tmp_path / "settings.toml").write_text(
        f'index = "qdrant:{mortal_qdrant.address}"\nindex_key_file = "{key_file}"\nembedder = "none"\n'
    )
    indexed = quietmind("index", str(notes))
    assert (indexed.returncode, indexed.stderr) == (0, "")
    assert f"{mortal_qdrant.address}: 1 passage copied, 0 removed" in indexed.stdout
    found = quietmind("search", "pumps")
    assert "pump.md:1-3" in found.stdout
    assert found.stderr == ""
    copy = json.loads(quietmind("status", "--json").stdout)["copy"]
    assert (copy["passages"], copy["of"], copy["with_vector"]) == (1, 1, 0)

    mortal_qdrant.close()
    found = quietmind("search", "pumps")
    assert "pump.md:1-3" in found.stdout
    assert found.stderr.startswith("warning: found in the archive's own index: http://127.0.0.1")
    assert len(found.stderr.splitlines()) == 1
    indexed = quietmind("index", str(notes))
    assert indexed.returncode == 1
    assert "1 unchanged" in indexed.stdout
    assert len(indexed.stderr.splitlines()) == 1
    assert "copy of the index: not there: http://127.0.0.1" in quietmind("status").stdout
