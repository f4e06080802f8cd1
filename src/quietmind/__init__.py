"""quietmind reads a private archive with a large local model and answers with citations it has checked."""

__version__ = "0.1.0"
