"""Work that needs a model's judgement over the archive: asking, and checking what was answered."""
