"""Lets ``python -m quietmind`` do what the ``quietmind`` command does."""

from quietmind.cli.main import run

if __name__ == "__main__":
    run()
