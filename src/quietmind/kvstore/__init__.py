"""Snapshots of KV caches on disk: formats, codecs, integrity, eviction. Blobs and fingerprints only; no engine."""
