"""The tables of the archive, as named migrations. Paths are stored as the bytes the file system knows them by."""

from __future__ import annotations

from quietmind.base.sqlite import Migration

MIGRATIONS = (
    Migration(
        "notes-1-documents",
        (
            "CREATE TABLE roots (path BLOB PRIMARY KEY) WITHOUT ROWID",
            # size to inode: the state of the file when it was read. settled: whether it was old enough then for an
            # unchanged state to prove unchanged content. made_by: see notes/intake.py.
            """
            CREATE TABLE documents (
                id INTEGER PRIMARY KEY,
                path BLOB NOT NULL UNIQUE,
                kind TEXT NOT NULL,
                title TEXT NOT NULL,
                encoding TEXT NOT NULL,
                lines INTEGER NOT NULL,
                repaired_lines INTEGER NOT NULL,
                size INTEGER NOT NULL,
                mtime_ns INTEGER NOT NULL,
                ctime_ns INTEGER NOT NULL,
                inode INTEGER NOT NULL,
                settled INTEGER NOT NULL,
                sha256 TEXT NOT NULL,
                made_by TEXT NOT NULL
            )
            """,
            # heading: a JSON array, outermost first.
            """
            CREATE TABLE passages (
                id INTEGER PRIMARY KEY,
                document INTEGER NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
                first_line INTEGER NOT NULL,
                last_line INTEGER NOT NULL,
                heading TEXT NOT NULL,
                speaker TEXT,
                said_at TEXT,
                text TEXT NOT NULL
            )
            """,
            "CREATE INDEX passages_of_document ON passages (document)",
            # Lemmas separated by spaces; rowid is passages.id. The table keeps its own copy of them: deleting from an
            # index without one needs the lemmas as they were, and a newer lemmatizer would give others.
            """
            CREATE VIRTUAL TABLE lemmas USING fts5 (
                title, heading, body, tokenize = "ascii tokenchars '_.-'"
            )
            """,
            "CREATE VIRTUAL TABLE lemma_counts USING fts5vocab (lemmas, row)",
        ),
    ),
    Migration(
        "notes-following",
        (
            # When all below a root was last held against its files; seconds since 1970, UTC.
            "CREATE TABLE updates (root BLOB PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID",
            # Folders inside the roots on which a disk was mounted: empty without it, and no proof that notes are gone.
            "CREATE TABLE mounts (path BLOB PRIMARY KEY) WITHOUT ROWID",
        ),
    ),
    Migration(
        "notes-2-links",
        (
            # What a document names at a line, in the order of its lines; where that leads is decided when asked. name:
            # what a place must be called to be meant. Empty targets are the document itself, empty anchors are none.
            """
            CREATE TABLE links (
                document INTEGER NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
                number INTEGER NOT NULL,
                line INTEGER NOT NULL,
                via TEXT NOT NULL,
                target TEXT NOT NULL,
                anchor TEXT NOT NULL,
                name TEXT NOT NULL,
                PRIMARY KEY (document, number)
            ) WITHOUT ROWID
            """,
            "CREATE INDEX links_by_name ON links (name)",
            # Lines that say what a requirement id or an identifier of code is; the lowest rank says so best.
            """
            CREATE TABLE definitions (
                document INTEGER NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
                number INTEGER NOT NULL,
                line INTEGER NOT NULL,
                via TEXT NOT NULL,
                name TEXT NOT NULL,
                rank INTEGER NOT NULL,
                PRIMARY KEY (document, number)
            ) WITHOUT ROWID
            """,
            "CREATE INDEX definitions_by_name ON definitions (name)",
        ),
    ),
    Migration(
        "notes-3-facets",
        (
            # Lower case, without the #; those of parts with all of them, a/b.
            """
            CREATE TABLE tags (
                tag TEXT NOT NULL,
                document INTEGER NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
                PRIMARY KEY (tag, document)
            ) WITHOUT ROWID
            """,
            "CREATE INDEX tags_of_document ON tags (document)",
            # Of each passage. languages: separated by spaces; NULL where its note was not looked at yet. day: when it
            # was said, else what the note is of (YYYY-MM-DD); NULL: the day of documents.mtime_ns, wherever one is.
            """
            CREATE TABLE facets (
                document INTEGER NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
                passage INTEGER NOT NULL,
                languages TEXT,
                speaker TEXT,
                day TEXT,
                PRIMARY KEY (document, passage)
            ) WITHOUT ROWID
            """,
            "INSERT INTO facets SELECT document, id, NULL, speaker, substr(said_at, 1, 10) FROM passages",
        ),
    ),
    Migration(
        "notes-4-refusals",
        (
            # Files that were read and are no notes, and what refused_by (notes/intake.py) was then. The other columns
            # are as in documents.
            """
            CREATE TABLE refusals (
                path BLOB PRIMARY KEY,
                size INTEGER NOT NULL,
                mtime_ns INTEGER NOT NULL,
                ctime_ns INTEGER NOT NULL,
                inode INTEGER NOT NULL,
                settled INTEGER NOT NULL,
                refused_by TEXT NOT NULL,
                reason TEXT NOT NULL
            ) WITHOUT ROWID
            """,
        ),
    ),
)
