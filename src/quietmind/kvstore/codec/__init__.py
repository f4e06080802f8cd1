"""Codecs: how an engine's saved cache becomes fewer bytes, and itself again. One codec per file."""
