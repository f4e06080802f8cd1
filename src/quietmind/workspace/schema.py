"""The one database that the rooms of a workspace share: its name, and the tables of all of them."""

from __future__ import annotations

from quietmind.base.sqlite import Migration
from quietmind.notes.schema import MIGRATIONS as NOTES

DATABASE = "archive.db"

# machine and plan_id are fingerprints (quietmind.plan.measured); at is ISO 8601 in UTC; predicted is in the same unit.
_MEASUREMENTS = (
    Migration(
        "measurements-1",
        (
            """
            CREATE TABLE measurements (
                id INTEGER PRIMARY KEY,
                plan_id TEXT NOT NULL,
                machine TEXT NOT NULL,
                what TEXT NOT NULL,
                depth INTEGER NOT NULL,
                value REAL NOT NULL,
                unit TEXT NOT NULL,
                predicted REAL,
                at TEXT NOT NULL
            )
            """,
            "CREATE INDEX measurements_of_machine ON measurements (machine)",
        ),
    ),
)

# sha256: the member's state when it was last put in order. tokens: of each block's text, by the tokenizer's digest.
_NOTEBOOKS = (
    Migration(
        "notebooks-1",
        (
            """
            CREATE TABLE notebooks (
                id INTEGER PRIMARY KEY,
                name TEXT NOT NULL UNIQUE,
                source_kind TEXT NOT NULL,
                source_value TEXT NOT NULL,
                made TEXT NOT NULL
            )
            """,
            """
            CREATE TABLE notebook_members (
                notebook INTEGER NOT NULL REFERENCES notebooks (id) ON DELETE CASCADE,
                position INTEGER NOT NULL,
                path BLOB NOT NULL,
                first_line INTEGER,
                last_line INTEGER,
                sha256 TEXT NOT NULL,
                PRIMARY KEY (notebook, position)
            ) WITHOUT ROWID
            """,
            """
            CREATE TABLE notebook_readings (
                notebook INTEGER PRIMARY KEY REFERENCES notebooks (id) ON DELETE CASCADE,
                fingerprint TEXT NOT NULL,
                content TEXT NOT NULL,
                tokens INTEGER NOT NULL,
                seconds REAL NOT NULL,
                read_at TEXT NOT NULL
            )
            """,
            """
            CREATE TABLE notebook_tokens (
                notebook INTEGER NOT NULL REFERENCES notebooks (id) ON DELETE CASCADE,
                tokenizer TEXT NOT NULL,
                text TEXT NOT NULL,
                tokens BLOB NOT NULL,
                PRIMARY KEY (notebook, tokenizer, text)
            ) WITHOUT ROWID
            """,
        ),
    ),
)

ALL_MIGRATIONS = (*NOTES, *_MEASUREMENTS, *_NOTEBOOKS)
