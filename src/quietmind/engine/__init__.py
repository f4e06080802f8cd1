"""The port that every model runs behind, one file per backend, and a scripted fake beside it."""
