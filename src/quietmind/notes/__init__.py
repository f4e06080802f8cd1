"""The archive: reading files of notes, cutting them into passages, indexing and finding them."""
