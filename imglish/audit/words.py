"""An index of the words in captions, so that a search over tens of millions of them takes a moment.

    build_index("corpus/manifest.json")             # imglish audit --index
    index_path(store, manifest)                     # its path, or None when there is none for this corpus

One Parquet file of (word, shard ordinal, row of the shard's metadata table), sorted, beside the corpus under `look/`,
which nothing else needs: it may be deleted. Its name holds the manifest's digest, so an index never serves another
corpus. A word is a run of letters, digits and underscores in lower case; what a script writes without spaces is one.
"""

from __future__ import annotations

import os
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

from imglish.audit.common import require
from imglish.audit.tables import Tables
from imglish.errors import StorageError
from imglish.shards.manifest import Manifest
from imglish.storage import Store

MEMORY = "3GB"
"""What DuckDB may hold while it sorts; the rest goes to a temporary folder beside the index."""
THREADS = max(1, os.cpu_count() or 1)
SPLIT = r"[^\p{L}\p{M}\p{N}_]+"
"""Between words (RE2)."""
ROW_GROUP = 122_880
"""Postings that are skipped or read together."""


def words_in(text: str) -> list[str]:
    """The words of a text, cut as the index cuts them (`SPLIT`)."""
    return "".join(c if c == "_" or unicodedata.category(c)[0] in "LMN" else " " for c in text).split()


def words_path(manifest: Manifest) -> str:
    """Where the index of a corpus lies."""
    return f"look/words-{manifest.digest[:32]}.parquet"


def index_path(store: Store, manifest: Manifest) -> str | None:
    """The local path of a corpus's index, None without one."""
    path = words_path(manifest)
    return str(store.path(path)) if store.exists(path) else None


def build_index(manifest_path: str) -> str:
    """Write the index of a corpus on a local disk; its path.

    ManifestError when a table is missing or damaged, StorageError when the disk is full or the corpus is remote.
    """
    tables = Tables(str(manifest_path))
    target = tables.store.path(words_path(tables.manifest))
    for ordinal in range(len(tables.manifest.shards)):
        tables.read_shard(ordinal, ["text"])  # every table has the digest that the manifest names
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-words-", dir=target.parent) as folder:
        made = Path(folder, "words.parquet")
        connection = connect(folder)
        try:
            register(connection, tables)
            connection.execute(
                "COPY (SELECT word, ordinal, place FROM (SELECT unnest(list_distinct(string_split_regex("
                f"lower(text), '{SPLIT}'))) AS word, ordinal, file_row_number::INTEGER AS place FROM rows "
                "WHERE text IS NOT NULL) WHERE word <> '' ORDER BY word, ordinal, place) TO "
                f"'{quoted(str(made))}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP})"
            )
        except require("duckdb").Error as error:
            raise StorageError(f"{target}: the index could not be written: {error}") from None
        finally:
            connection.close()
        made.replace(target)
    return str(target)


def connect(scratch: str | None = None, memory: str = MEMORY) -> Any:
    """A DuckDB that keeps the order of rows, fetches nothing and installs nothing."""
    settings: dict[str, Any] = {"memory_limit": memory, "threads": THREADS}
    settings |= {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    if scratch is not None:
        settings["temp_directory"] = scratch
    return require("duckdb").connect(":memory:", config=settings)


def register(connection: Any, tables: Tables) -> None:
    """The table `shards` (ordinal, filename, split), and the view `rows` over every metadata table."""
    shards = [(n, str(tables.store.path(s.metadata.path)), s.split) for n, s in enumerate(tables.manifest.shards)]
    connection.execute("CREATE TABLE shards (ordinal INTEGER, filename VARCHAR, split VARCHAR)")
    connection.executemany("INSERT INTO shards VALUES (?, ?, ?)", shards)
    files = ", ".join(f"'{quoted(path)}'" for _, path, _ in shards)
    connection.execute(
        "CREATE VIEW rows AS SELECT m.*, s.ordinal, s.split FROM read_parquet("
        f"[{files}], filename=true, file_row_number=true) m JOIN shards s USING (filename)"
    )


def quoted(text: str) -> str:
    """Text inside quotes of SQL."""
    return text.replace("'", "''")
