"""What every room stands on: errors, units, paths, settings, SQLite, progress."""
