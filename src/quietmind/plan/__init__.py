"""Pure arithmetic: what a model takes on a machine, and whether it fits. No files, no processes."""
