"""Telemetry on disk: one SQLite file a run, which survives a crash and is read as it is written."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from isograd.errors import RunError
from isograd.telemetry.records import Record, Telemetry
from isograd.telemetry.rows import (
    TABLES,
    VERSION,
    Row,
    facts,
    meta_row,
    record_rows,
    records,
)

# "isog" in ASCII, kept as ``PRAGMA application_id``: tells a store from other SQLite files.
_APPLICATION = 0x69736F67

# The version is kept as ``PRAGMA user_version``.
_SCHEMA = f"""
BEGIN;
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL, checksum) WITHOUT ROWID;
CREATE TABLE records (step INTEGER PRIMARY KEY, {", ".join(TABLES[VERSION]["records"][1:])});
CREATE TABLE summaries (
    {", ".join(TABLES[VERSION]["summaries"])}, PRIMARY KEY (step, site)
) WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {VERSION};
COMMIT;
"""
_INSERT = {
    table: f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(columns))})"
    for table, columns in TABLES[VERSION].items()
}

_SECONDS = 1.0  # from one commit to the next, at most, as long as records come


class Store:
    """A run's telemetry in an SQLite file, for one writer and any number of readers at once.

    The file is in WAL mode: readers see whole batches only, and do not hold up the writer. What
    is committed outlives the process, however it ends. Use a store as a context manager, or
    ``close`` it: that commits what is pending. A store is used by the thread that made it.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, batch: int, version: int = VERSION
    ) -> None:
        """Not to be called: ``create`` makes the one that writes, ``open`` those that read."""
        self._path = path
        self._tables = TABLES[version]
        self._connection = connection
        self._batch = batch
        self._pending: list[Record] = []
        self._last_step = -math.inf
        self._committed = time.monotonic()

    @staticmethod
    def create(path: str | Path, *, batch: int = 4096) -> Store:
        """A new store, to write to.

        Args:
            path: a file that does not exist, in a folder that does.
            batch: records per commit, at least 1; a second after a commit the next one is due
                in any case.

        Raises:
            RunError: the file exists, or cannot be written.
        """
        path = Path(path).absolute()
        try:
            path.open("xb").close()
        except FileExistsError as error:
            raise RunError(
                "the file of a new store must not exist",
                came="one that does",
                where=str(path),
                fix="choose another run folder; telemetry is never written over",
            ) from error
        except OSError as error:
            raise RunError(
                "the folder of a new store must exist and be writable",
                came=error.strerror or str(error),
                where=str(path),
                fix="make the folder, or choose one that you may write to",
            ) from error
        try:
            with _connected(path, "rw") as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                # What is committed is on the disk: a checkpoint relies on it.
                connection.execute("PRAGMA synchronous = FULL")
                connection.executescript(_SCHEMA)
                return Store(path, connection, max(batch, 1))
        except RunError:
            path.unlink(missing_ok=True)
            raise

    @staticmethod
    def resume(path: str | Path, step: int, *, batch: int = 4096) -> Store:
        """An existing store, to write to from a step on; what it holds of later steps is dropped.

        Args:
            path: as for `open`.
            step: the number of the next step.
            batch: as for `create`.

        Raises:
            RunError: as `open`, or the file cannot be written.
        """
        Store.open(path).close()  # that it is one, of this version or an older
        path = Path(path).absolute()
        with _connected(path, "rw") as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version < VERSION:
                raise RunError(
                    f"a store to go on with must be of version {VERSION}",
                    came=f"version {version}, written by an older isograd",
                    where=str(path),
                    fix="train anew",
                )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            store = Store(path, connection, max(batch, 1))
            store.cut(step)
            return store

    @staticmethod
    def open(path: str | Path) -> Store:
        """An existing store, to read from, even while it is written.

        Raises:
            RunError: the file is missing, is not a store, or was written by a newer version.
        """
        path = Path(path).absolute()
        if not path.is_file():
            raise RunError(
                "a store must be a file",
                came="a folder" if path.is_dir() else "no such file",
                where=str(path),
                fix="check the name of the run",
            )
        with _connected(path, _mode_to_read(path)) as connection:
            application, version = _identity(connection)
            if application != _APPLICATION:
                raise RunError(
                    "a store must have been written by isograd",
                    came=f"an SQLite file of another program (application_id {application})",
                    where=str(path),
                    fix="give the file that training wrote into the run's folder",
                )
            if version not in TABLES:
                newer = version > VERSION
                raise RunError(
                    f"a store's version must be {VERSION} or lower",
                    came=f"version {version}" + (", written by a newer isograd" if newer else ""),
                    where=str(path),
                    fix="install the isograd that wrote it, or a later one"
                    if newer
                    else "take a copy of the file from a backup",
                )
            return Store(path, connection, 0, version)

    def write(self, record: Record) -> None:
        """Add a record. It is on disk when its batch is committed.

        Raises:
            RunError: the store was opened to read, the step is not later than the last one, or
                the batch was due and could not be committed. Then nothing of it is in the file,
                and it stays pending: the next ``commit`` tries again.
        """
        if not self._batch:
            raise RunError(
                "a store that is written to must have been made by Store.create",
                came="one from Store.open, which reads",
                where=str(self._path),
            )
        if record.step <= self._last_step:
            raise RunError(
                "steps must be recorded once and in increasing order",
                came=f"step {record.step} after step {self._last_step}",
                where=str(self._path),
                fix="record each attempt at training in a store of its own",
            )
        self._pending.append(record)
        self._last_step = record.step
        if len(self._pending) >= self._batch or time.monotonic() - self._committed >= _SECONDS:
            self.commit()

    def commit(self) -> None:
        """Put all pending records on disk, or none.

        Raises:
            RunError: the file could not be written, because the disk is full for instance.
        """
        if not self._pending:
            return
        with self._transaction() as connection:
            # An interrupt may come between the commit and the line that notes it: the records
            # are then written again, to the same effect.
            before = _checksum_before(connection, int(self._pending[0].step))
            for record in self._pending:
                row, summaries = record_rows(record, before)
                connection.execute(_INSERT["records"], row)
                connection.executemany(_INSERT["summaries"], summaries)
                before = row[-1]
        self._pending.clear()
        self._committed = time.monotonic()

    def cut(self, step: int) -> None:
        """Drop what is recorded of a step and of those after it; it is the next to be recorded.

        Raises:
            RunError: the file could not be written.
        """
        self._pending = [record for record in self._pending if record.step < step]
        with self._transaction() as connection:
            connection.execute("DELETE FROM records WHERE step >= ?", (step,))
            connection.execute("DELETE FROM summaries WHERE step >= ?", (step,))
        self._last_step = step - 1

    def set_meta(self, name: str, value: str) -> None:
        """Put down a fact about the run as a whole, at once; the last value counts.

        Raises:
            RunError: the store was opened to read, or the file could not be written.
        """
        with self._transaction() as connection:
            connection.execute(_INSERT["meta"], meta_row(name, value))

    def meta(self) -> dict[str, str]:
        """The facts about the run as a whole, by name; raises what `read` raises."""
        with self._transaction(writes=False) as connection:
            return facts(self._select(connection, "meta"), str(self._path))

    def read(self, *, since_step: int = -(2**63)) -> Telemetry:
        """What has been written up to now, including what is pending in this very store.

        Args:
            since_step: the first step to read.

        Raises:
            RunError: the file cannot be read, or what it holds is not what was written.
        """
        self.commit()
        with self._transaction(writes=False) as connection:
            before = None
            if "checksum" in self._tables["records"]:
                before = _checksum_before(connection, since_step)
            since = f"WHERE step >= {since_step:d} ORDER BY step"
            summaries: dict[int, list[Row]] = {}
            for row in self._select(connection, "summaries", since + ", site"):
                summaries.setdefault(row[0], []).append(row)
            found = self._select(connection, "records", since)
            return Telemetry(
                facts(self._select(connection, "meta"), str(self._path)),
                tuple(records(found, summaries, before, str(self._path))),
            )

    def _select(self, connection: sqlite3.Connection, table: str, rest: str = "") -> list[Row]:
        """Rows of a table, with the columns that its version has."""
        query = f"SELECT {', '.join(self._tables[table])} FROM {table} {rest}"
        return connection.execute(query).fetchall()

    def close(self) -> None:
        """Commit what is pending and let go of the file.

        Raises:
            RunError: the file could not be written. The store is closed all the same.
        """
        try:
            self.commit()
            if self._batch:
                # Without readers the store becomes a single file, which is easily moved and can
                # be read in a folder that is not writable. With readers it stays as it is.
                with suppress(sqlite3.Error):
                    self._connection.execute("PRAGMA journal_mode = DELETE")
        finally:
            self._pending.clear()
            self._connection.close()

    def __enter__(self) -> Store:
        """The store itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it; what was measured is kept when an exception ends the block."""
        self.close()

    @contextmanager
    def _transaction(self, *, writes: bool = True) -> Iterator[sqlite3.Connection]:
        """All of the block or none of it; for a reader, one and the same state throughout."""
        connection = self._connection
        with _explained(self._path):
            try:
                if connection.in_transaction:  # a second interrupt kept the first from undoing it
                    connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")


def _identity(connection: sqlite3.Connection) -> tuple[int, int]:
    """Which program's file it is, and of which version."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return application, version


def _checksum_before(connection: sqlite3.Connection, step: int) -> Any:
    """That of the last record before a step; None where there is none."""
    query = "SELECT checksum FROM records WHERE step < ? ORDER BY step DESC LIMIT 1"
    (checksum,) = connection.execute(query, (step,)).fetchone() or (None,)
    return checksum


def _mode_to_read(path: Path) -> str:
    """ "ro", or "rw" where a writer was killed in a transaction that is to be undone first."""
    with _explained(path), closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as trial:
        try:
            _identity(trial)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
                raise
            return "rw"
    return "ro"


@contextmanager
def _connected(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """A connection that outlives the block, unless the block fails."""
    with _explained(path):
        connection = sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, isolation_level=None)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's errors as RunErrors that say what to do."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter of names of columns
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        raise RunError(
            "a store must be an SQLite file that can be read, and by its writer written",
            came=str(error),
            where=str(path),
            fix=_FIXES.get(code, "check the file and the disk"),
        ) from error


_KEPT = "what was committed before is kept and can be read"
_FIXES = {
    sqlite3.SQLITE_FULL: f"free space on the disk, or train into a folder on another; {_KEPT}",
    sqlite3.SQLITE_IOERR: f"check that the disk works and takes a file of this size; {_KEPT}",
    sqlite3.SQLITE_NOTADB: "give the file that training wrote into the run's folder",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: take a copy of it from a backup",
    sqlite3.SQLITE_READONLY: "let the writer, made by Store.create, write; check permissions",
    sqlite3.SQLITE_CANTOPEN: "check the permissions of the file and its folder",
    sqlite3.SQLITE_BUSY: "let only one process write to a run, and keep it on a local disk",
}
