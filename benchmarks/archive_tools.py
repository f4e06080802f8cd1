"""Whole tools over the same folder of pages: each reads, cuts and indexes in its own way, with its search by words."""

from __future__ import annotations

from archive_peers import Offer

TOOLS: dict[str, Offer] = {}
