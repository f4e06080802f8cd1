"""What must be the same for a saved cache to be the cache that a fresh prefill would make."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from quietmind.base.errors import SnapshotDamaged


@dataclass(frozen=True)
class Fingerprint:
    """The run that a cache belongs to, each part as a text that is equal when the part is.

    ``weights`` is a digest of the weights' bytes, ``tokenizer`` and ``template`` of what turns messages into tokens,
    ``rope`` names the position embedding with its scaling, ``kv`` the types of K and V and whether flash attention was
    on (it decides how V is laid out), ``engine`` the build that saved it, ``adapters`` the LoRA adapters that were
    applied, ``experts`` the number of experts used.
    """

    weights: str
    tokenizer: str
    template: str
    rope: str
    kv: str
    engine: str
    adapters: str = ""
    experts: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all parts, in hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def differences(self, other: Fingerprint) -> tuple[str, ...]:
        """Return the names of the parts that are not the same in ``other``."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name))

    @classmethod
    def from_json(cls, given: Any) -> Fingerprint:
        """Return the fingerprint that ``asdict`` was made of. Raises SnapshotDamaged for anything else."""
        names = {field.name for field in fields(cls)}
        if not isinstance(given, Mapping) or set(given) != names or not all(isinstance(v, str) for v in given.values()):
            raise SnapshotDamaged("its fingerprint cannot be read; read the notebook again")
        return cls(**given)
