"""Fail unless a sentence of each answer (a file that `quietmind ask --save` wrote) rests on a verified citation."""

import json
import sys
from pathlib import Path


def fault(file: str) -> str | None:
    """Return what is wrong with the answer in ``file``, or None."""
    answer = json.loads(Path(file).read_text(encoding="utf-8"))
    verified = [citation for citation in answer["citations"] if citation["verified"] and citation["supports"]]
    if not answer["answer"].strip():
        return "the model answered nothing"
    if not verified:
        return "no sentence rests on a verified citation"
    for citation in verified:
        if not Path(citation["path"]).is_file():
            return f"cites {citation['path']}, which does not exist"
    return None


faults = [f"{file}: {wrong}" for file in sys.argv[1:] if (wrong := fault(file))]
print("\n".join(faults) or f"{len(sys.argv) - 1} demo answers, each with a verified citation")
sys.exit(bool(faults))
