"""The one place that joins plan, engine and notes for one folder of work."""
