"""Records and the file they are kept in: round trips, crashes, readers beside a writer, errors."""

from __future__ import annotations

import math
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import zlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from isograd.backends.llvm.measured import MOMENTS
from isograd.errors import IsogradError, RunError
from isograd.telemetry import KINDS, Record, Site, Store, Summary, Telemetry
from isograd.telemetry.packing import Packing

SITES = (Site("z", 0), Site("delta", 0), Site("z", 10), Site("dW", 2))


def record(step: int, **changes: object) -> Record:
    """A record that is measured at four sites."""
    rng = np.random.default_rng(step)
    summaries = {
        site: Summary.of(rng.standard_normal((4, 9)).astype(np.float32), active=(-0.3, 0.3))
        for site in SITES
    }
    plain = Record(step, step // 10, 1 / (step + 1), 0.1, False, 2.0, summaries)
    plain = replace(plain, moments=rng.bytes(8))
    return replace(plain, **changes)


def write(store: Store, steps: range) -> None:
    for step in steps:
        store.write(record(step))


def check_whole(telemetry: Telemetry) -> int:
    """The records are steps 0, 1, … without a gap, each with all it was written with."""
    for step, found in enumerate(telemetry.records):
        assert found == record(step)
    return len(telemetry.records)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.sqlite"


@pytest.mark.parametrize("site", [Site("z", 3), Site("delta", 0), Site("uW", 120), Site("a", 3, 1)])
def test_a_site_is_parsed_as_it_is_written(site):
    assert Site.parse(str(site)) == site


def test_sites():
    assert str(Site("z", 3)) == "z/3"
    assert str(Site("a", 3, 12)) == "a/3.12"
    assert sorted([Site("z", 10), Site("z", 2), Site("a", 5)]) == [
        Site("a", 5),
        Site("z", 2),
        Site("z", 10),
    ]
    assert {Site("z", 1): 1}[Site("z", 1)] == 1
    assert len(set(KINDS)) == len(KINDS) == 31


@pytest.mark.parametrize(
    "text", ["", "z", "z/", "z/-1", "z/x", "z/1/2", "z/²", "/3", "Z/3", "z/3.0", "z/3."]
)
def test_other_texts_are_not_sites(text):
    with pytest.raises(IsogradError):
        Site.parse(text)


def test_errors_about_sites_say_what_is_known():
    with pytest.raises(IsogradError, match=r"known one\n  came:  'delt'\n.*\n.*mean 'delta'"):
        Site.parse("delt/3")
    with pytest.raises(
        IsogradError, match=r"written kind/layer or kind/layer\.part\n  came:  'z3'\n.*z/3"
    ):
        Site.parse("z3")
    with pytest.raises(IsogradError, match=r"must not be negative\n  came:  layer -1"):
        Site("z", -1)
    with pytest.raises(IsogradError, match=r"must not be negative\n  came:  layer 3, part -1"):
        Site("z", 3, -1)


def test_telemetry_by_step_and_site():
    rng = np.random.default_rng(0)
    data = {step: rng.standard_normal((3, 4)) for step in (0, 2, 4)}
    z, a = Site("z", 0), Site("a", 0)
    records = [Record(step, 0, float(step), 0.1) for step in range(6)]
    for step, x in data.items():
        records[step] = replace(records[step], summaries={z: Summary.of(x)})
    both = {z: Summary.of(data[4]), a: Summary.of(-data[4])}
    records[4] = replace(records[4], summaries=both)
    telemetry = Telemetry({}, tuple(records))

    assert telemetry.steps().tolist() == [0, 1, 2, 3, 4, 5]
    assert telemetry.steps().dtype == np.int64
    assert telemetry.losses().tolist() == [0, 1, 2, 3, 4, 5]
    assert telemetry.losses().dtype == np.float64
    assert [r.step for r in telemetry.measured()] == [0, 2, 4]
    assert telemetry.sites() == (a, z)
    steps, summaries = telemetry.series(z)
    assert steps.tolist() == [0, 2, 4]
    assert summaries == [Summary.of(x) for x in data.values()]
    assert telemetry.series(Site("z", 7))[1] == []

    window = telemetry.window(1, 4)
    whole = Summary.of(np.concatenate([data[2], data[4]]))
    assert set(window) == {z, a}
    assert window[a] == both[a]
    assert window[z].exponents == whole.exponents
    assert window[z].norm == pytest.approx(whole.norm, rel=1e-14)
    assert telemetry.window(5, 9) == {}
    assert Telemetry({}, ()).losses().shape == (0,)


def test_what_is_written_is_read(path):
    written = [record(step) for step in range(5)]
    written[1] = Record(1, 0, 0.5, 0.1)
    with Store.create(path, batch=2) as store:
        store.set_meta("spec", "depth = 30")
        store.set_meta("seed", "1")
        store.set_meta("seed", "2")
        for r in written:
            store.write(r)
    with Store.open(path) as store:
        telemetry = store.read()
        assert store.meta() == telemetry.meta == {"spec": "depth = 30", "seed": "2"}
        assert telemetry.records == tuple(written)
        assert store.read(since_step=3).records == tuple(written[3:])
        assert store.read(since_step=9).records == ()


def test_special_values_are_read_as_written(path):
    odd = np.array([math.nan, math.inf, -math.inf, 1e-45, -0.0, 3e38], np.float32)
    summaries = {
        Site("z", 0): Summary.of(odd, active=(0.0, 1.0)),
        Site("z", 1): Summary.of(np.full((3, 20), np.nan)),
        Site("z", 2): Summary.of(np.zeros((0, 3))),
        Site("z", 3): Summary.of(np.array([5e-324, 1.7e308])),
        Site("z", 4): Summary.of(np.eye(3, 17), active=(0.0, 0.0)),
    }
    values = (math.nan, math.inf, -math.inf, 5e-324, -0.0, 0.1, np.float32(0.1), None)
    norms = (None, math.nan, math.inf, 0.0, np.float64(1), 1e308, 3, -math.inf)
    with Store.create(path) as store:
        for step, (x, norm) in enumerate(zip(values[:-1], norms[:-1], strict=True)):
            skipped = bool(step % 2)
            store.write(Record(np.int64(step), 0, x, x, skipped, norm, summaries, norm, x))
    with Store.open(path) as store:
        records = store.read().records
    for step, found in enumerate(records):
        loss, norm = values[step], norms[step]
        assert repr((found.loss, found.lr)) == repr((float(loss), float(loss)))
        expected = repr(None if norm is None else float(norm))
        assert repr(found.grad_norm) == repr(found.predicted) == expected
        assert repr(found.actual) == repr(float(loss))
        assert found.skipped is bool(step % 2)
        assert found.summaries == summaries
    assert len(records) == 7


def test_the_file_can_be_queried(path):
    with Store.create(path) as store:
        store.write(record(7))
    database = sqlite3.connect(path)
    query = "SELECT mean, max_abs FROM summaries WHERE step = 7 AND site = 'dW/2'"
    summary = record(7).summaries[Site("dW", 2)]
    assert database.execute(query).fetchall() == [(summary.mean, summary.max_abs)]
    database.close()


def test_readers_see_whole_batches(path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("isograd.telemetry.store.time.monotonic", lambda: now[0])
    with Store.create(path, batch=4) as writer, Store.open(path) as reader:
        seen = []
        for step in range(9):
            writer.write(record(step))
            seen.append(check_whole(reader.read()))
        assert seen == [0, 0, 0, 4, 4, 4, 4, 8, 8]
        now[0] += 0.9
        writer.write(record(9))
        assert check_whole(reader.read()) == 8
        now[0] += 0.1
        writer.write(record(10))
        assert check_whole(reader.read()) == 11, "a second has passed"
        writer.write(record(11))
        assert check_whole(writer.read()) == 12, "a writer reads what it wrote"
        writer.write(record(12))
    with Store.open(path) as reader:
        assert check_whole(reader.read()) == 13


def test_a_reader_does_not_hold_up_the_writer(path):
    with Store.create(path, batch=1) as writer, Store.open(path) as reader:
        write(writer, range(3))
        with reader._transaction(writes=False) as connection:
            count = "SELECT count(*) FROM records"
            assert connection.execute(count).fetchone() == (3,)
            write(writer, range(3, 5))
            assert connection.execute(count).fetchone() == (3,)
        assert check_whole(reader.read()) == 5


def test_a_reader_beside_a_writer_sees_a_whole_prefix(path):
    total = 150
    created = threading.Event()

    def train() -> None:
        with Store.create(path, batch=2) as store:
            created.set()
            write(store, range(total))

    thread = threading.Thread(target=train)
    thread.start()
    created.wait()
    seen = [0]
    with Store.open(path) as reader:
        while thread.is_alive():
            seen.append(check_whole(reader.read()))
        assert check_whole(reader.read()) == total
    thread.join()
    assert seen == sorted(seen)
    assert len(set(seen)) > 2


WRITER = """
    import sys
    sys.path.insert(0, {tests!r})
    from test_store import Store, record
    store = Store.create({path!r}, batch=5)
    for step in range(100_000):
        store.write(record(step))
        print(step, flush=True)
"""


def writing(path: Path) -> subprocess.Popen[str]:
    """A process that writes record after record, and says which it has written."""
    program = textwrap.dedent(WRITER).format(tests=str(Path(__file__).parent), path=str(path))
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def test_what_is_committed_outlives_a_kill(path):
    with writing(path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 38:
                break
        process.send_signal(signal.SIGKILL)
        written = [38, *map(int, process.stdout)][-1] + 1
    assert process.returncode == -signal.SIGKILL
    with Store.open(path) as store:
        read = check_whole(store.read())
    assert read >= 35
    assert read >= written - written % 5
    assert read <= written + 1


def test_a_missing_site_is_seen(path):
    with Store.create(path) as store:
        store.write(record(0))
        store.write(record(1))
    database = sqlite3.connect(path)
    database.execute("DELETE FROM summaries WHERE step = 1 AND site = 'dW/2'")
    database.commit()
    database.close()
    with Store.open(path) as store, pytest.raises(RunError, match="step 1 does not agree"):
        store.read()


def test_an_exception_keeps_what_was_measured(path):
    def interrupted() -> None:
        with Store.create(path) as store:
            write(store, range(3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with Store.open(path) as store:
        assert check_whole(store.read()) == 3


def test_records_that_are_committed_twice_are_there_once(path):
    with Store.create(path) as store:
        store.write(record(0))
        store.commit()
        store._pending.append(record(0))  # as after an interrupt right behind the commit
        store.commit()
        assert check_whole(store.read()) == 1


def test_a_closed_store_is_one_file(path):
    with Store.create(path) as store:
        store.write(record(0))
    store.close()
    with Store.open(path) as store:
        store.read()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_full_disk(path):
    store = Store.create(path, batch=4)
    write(store, range(8))
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(RunError, match=r"disk is full\n(.*\n)*.*free space .* committed before"):
        write(store, range(8, 400))
    with Store.open(path) as reader:
        kept = check_whole(reader.read())
        assert kept >= 8
        assert kept % 4 == 0
        store._connection.execute(f"PRAGMA max_page_count = {100 * pages}")
        store.commit()
        assert check_whole(reader.read()) == kept + 4, "the failed batch was pending"
    store.close()


def test_a_store_that_cannot_commit_is_closed_all_the_same(path):
    store = Store.create(path)
    store._connection.execute("PRAGMA max_page_count = 1")  # and as many as there are now
    write(store, range(60))
    with pytest.raises(RunError, match="disk is full"):
        store.close()
    store.close()
    with Store.open(path) as reader:
        assert reader.read().records == ()


def test_a_limit_on_the_size_of_files(path):
    with writing(path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        size = (200_000, 200_000)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, size)
        written = len(process.stdout.readlines()) + 1
    assert process.returncode == 1
    with Store.open(path) as store:
        assert check_whole(store.read()) == written - written % 5


def test_a_store_is_never_written_over(path):
    path.write_bytes(b"something dear")
    with pytest.raises(RunError, match=r"must not exist\n(.*\n)*  fix:   choose another run"):
        Store.create(path)
    assert path.read_bytes() == b"something dear"


def test_folders_that_cannot_be_written(tmp_path):
    with pytest.raises(RunError, match=r"folder of a new store must exist .*\n  came:  No such"):
        Store.create(tmp_path / "nowhere" / "telemetry.sqlite")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"folder of a new store must exist .*\n  came:  Not a dir"):
        Store.create(tmp_path / "file" / "telemetry.sqlite")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match=r"folder of a new store must .*\n  came:  Permission"):
        Store.create(tmp_path / "telemetry.sqlite")


def test_a_store_that_cannot_be_made_leaves_no_file(path, monkeypatch):
    monkeypatch.setattr("isograd.telemetry.store._SCHEMA", "CREATE nonsense;")
    with pytest.raises(RunError, match="syntax error"):
        Store.create(path)
    assert list(path.parent.iterdir()) == []


def test_files_that_are_no_stores(tmp_path):
    def refused(name: str, message: str) -> None:
        with pytest.raises(RunError, match=message) as caught:
            Store.open(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)

    refused("missing", "must be a file\n  came:  no such file")
    (tmp_path / "folder").mkdir()
    refused("folder", "must be a file\n  came:  a folder")
    (tmp_path / "garbage").write_bytes(np.random.default_rng(0).bytes(9000))
    refused("garbage", "must be an SQLite file .*\n  came:  file is not a database")
    (tmp_path / "empty").touch()
    refused("empty", "must have been written by isograd")
    database = sqlite3.connect(tmp_path / "other")
    database.execute("CREATE TABLE bookmarks (url)")
    database.close()
    refused("other", "must have been written by isograd\n  came:  .* another program")


def test_a_store_of_a_newer_version(path):
    Store.create(path).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 4")
    database.close()
    with pytest.raises(RunError, match=r"must be 3 or lower\n  came:  version 4, .* newer isograd"):
        Store.open(path)


def test_a_damaged_store(path):
    with Store.create(path) as store:
        write(store, range(20))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    with Store.open(path) as store, pytest.raises(RunError, match=r"malformed\n.*\n.*damaged"):
        store.read()


def test_readers_do_not_write(path):
    Store.create(path).close()
    with Store.open(path) as store:
        with pytest.raises(RunError, match=r"made by Store\.create"):
            store.write(record(0))
        with pytest.raises(RunError, match=r"readonly(.*\n)*.*Store\.create"):
            store.set_meta("seed", "1")


def test_steps_increase(path):
    with Store.create(path) as store:
        store.write(record(3))
        for step in (3, 2):
            with pytest.raises(RunError, match=f"increasing order\n  came:  step {step} after"):
                store.write(record(step))
        store.write(record(5))
        assert store.read().steps().tolist() == [3, 5]


# --- gone on with


def test_a_store_is_gone_on_with_from_any_step(path):
    with Store.create(path, batch=4) as store:
        write(store, range(10))
    for step in (10, 7, 7, 0, 3):
        with Store.resume(path, step, batch=4) as store:
            assert check_whole(store.read()) == step
            write(store, range(step, 10))
        with Store.open(path) as store:
            assert check_whole(store.read()) == 10


def test_what_is_cut_may_be_pending_or_committed(path):
    with Store.create(path, batch=4) as store:
        write(store, range(6))
        store.cut(5)
        write(store, range(5, 6))
        store.cut(2)
        assert check_whole(store.read()) == 2
        write(store, range(2, 9))
        assert check_whole(store.read()) == 9
        assert store.read(since_step=4).records == tuple(record(step) for step in range(4, 9))


def test_stores_that_cannot_be_gone_on_with(path):
    with pytest.raises(RunError, match="no such file"):
        Store.resume(path, 0)
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(RunError, match="not a database"):
        Store.resume(path, 0)
    path.unlink()
    old_store(path)
    with pytest.raises(RunError, match=r"must be of version 3\n  came:  version 1, .* older"):
        Store.resume(path, 0)


# --- older versions


def old_store(path: Path) -> None:
    """Steps 0 to 2 as version 1 wrote them: no checksums, no scores of a validation part."""
    row = ("step", "epoch", "loss", "lr", "skipped", "grad_norm", "predicted", "actual")
    columns = ("count", "mean", "std", "min", "max", "max_abs", "min_abs", "zeros", "nans")
    columns += ("pos_infs", "neg_infs", "saturated")
    columns += ("first_exponent", "exponent_counts", "units_off", "width")
    with closing(sqlite3.connect(path)) as database:
        database.executescript(f"""
            CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
            CREATE TABLE records (step INTEGER PRIMARY KEY, {", ".join(row[1:])});
            CREATE TABLE summaries (
                step, site, {", ".join(columns)}, PRIMARY KEY (step, site)
            ) WITHOUT ROWID;
            INSERT INTO meta VALUES ('rows', '120');
            INSERT INTO records VALUES (0, 0, 'nan', 0.1, 1, NULL, NULL, NULL);
            INSERT INTO records VALUES (1, 0, 0.5, 0.1, 0, 2.0, -0.25, -0.125);
            INSERT INTO records VALUES (2, 0, 9e999, 0.1, 0, 2.0, NULL, NULL);
            INSERT INTO summaries VALUES (
                1, 'z/1', 3, 2.0, 1.0, 1.0, 3.0, 3.0, 1.0, 0, 0, 0, 0, 1, 0,
                x'01000000000000000200000000000000', x'A0', 3
            );
            PRAGMA application_id = {0x69736F67};
            PRAGMA user_version = 1;
        """)


def test_a_store_of_version_1(path):
    old_store(path)
    with Store.open(path) as store:
        telemetry = store.read()
    assert telemetry.meta == {"rows": "120"}
    first, second, third = telemetry.records
    assert math.isnan(first.loss)
    assert first.skipped
    assert (first.grad_norm, first.summaries) == (None, {})
    assert (second.loss, second.predicted, second.actual) == (0.5, -0.25, -0.125)
    assert (second.validation, second.accuracy) == (None, None)
    assert third.loss == math.inf
    summary = second.summaries[Site("z", 1)]
    assert (summary.count, summary.mean, summary.std, summary.saturated) == (3, 2.0, 1.0, 1)
    assert summary.exponents == (0, (1, 2))
    assert summary.units_off.tolist() == [True, False, True]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE records SET loss = 'much' WHERE step = 1",
        "UPDATE summaries SET site = 'x/1'",
        "UPDATE summaries SET exponent_counts = x'00'",
        "UPDATE summaries SET exponent_counts = 7",
        "UPDATE meta SET value = x'00'",
    ],
)
def test_a_damaged_store_of_version_1(change, path):
    old_store(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute(change)
        database.commit()
    with Store.open(path) as store, pytest.raises(RunError, match="must be whole"):
        store.read()


def test_a_store_of_version_2(path):
    """As version 2 wrote it: checksums, but no moments."""

    def checksum(*content: object) -> int:
        return zlib.crc32(msgspec.msgpack.encode(content))

    rows = [(0, 0, 0.5, 0.1, 0, 2.0, -0.25, -0.125, None, None)]
    rows += [(1, 0, 0.25, 0.1, 0, None, None, None, 0.75, 0.5)]
    sums, before = [], None
    for row in rows:
        before = checksum(before, row, [])
        sums.append(before)
    names = "loss, lr, skipped, grad_norm, predicted, actual, validation, accuracy, checksum"
    columns = ", ".join(Summary.__slots__[:-2])
    with closing(sqlite3.connect(path)) as database:
        database.executescript(f"""
            CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL, checksum) WITHOUT ROWID;
            CREATE TABLE records (step INTEGER PRIMARY KEY, epoch, {names});
            CREATE TABLE summaries (
                step, site, {columns}, first_exponent, exponent_counts, units_off, width,
                PRIMARY KEY (step, site)
            ) WITHOUT ROWID;
            PRAGMA application_id = {0x69736F67};
            PRAGMA user_version = 2;
        """)
        with database:
            database.execute("INSERT INTO meta VALUES ('rows', '1', ?)", (checksum("rows", "1"),))
            for row, total in zip(rows, sums, strict=True):
                database.execute(f"INSERT INTO records VALUES ({'?, ' * 10}?)", (*row, total))
    with Store.open(path) as store:
        telemetry = store.read()
    assert telemetry.meta == {"rows": "1"}
    first, second = telemetry.records
    assert (first.loss, first.predicted, first.actual) == (0.5, -0.25, -0.125)
    assert (second.grad_norm, second.validation, second.accuracy) == (None, 0.75, 0.5)
    assert first.moments is second.moments is None


# --- moments of every step


def taken(rng: np.random.Generator, steps: int, sites: int, dtype: str) -> np.ndarray:
    """Moments as a native step leaves them, nothing finite in some."""
    found = np.zeros((steps, sites), MOMENTS)
    x = rng.standard_normal((steps, sites, 5)).astype(dtype)
    for name in ("mean", "std", "min", "max"):
        found[name] = getattr(x, name)(axis=2)
    found["count"], found["zeros"] = 5, rng.integers(0, 3, (steps, sites))
    found[1, 1] = (0, 0.0, 0.0, math.inf, -math.inf, 0, 5, 2)
    return found


@pytest.mark.parametrize(("dtype", "size"), [("float32", 32), ("float64", 48)])
def test_moments_of_every_step(path, dtype, size):
    found = taken(np.random.default_rng(0), 6, 4, dtype)
    packing = Packing(dtype, tuple(map(str, SITES)))
    packed = packing.pack(found)
    assert {len(step) for step in packed} == {4 * size}
    with Store.create(path) as store:
        store.set_meta("moments", packing.to_json())
        for step, moments in enumerate(packed):
            store.write(record(2 * step, moments=moments if step != 3 else None))
    with Store.open(path) as store:
        telemetry = store.read()
    assert telemetry.records[1] == record(2, moments=packed[1])
    kept = np.delete(found, 3, axis=0)
    for i, site in enumerate(SITES):
        steps, read = telemetry.moments(site)
        assert steps.tolist() == [0, 2, 4, 8, 10]
        for name in ("count", "min", "max", "zeros", "nonfinite", "saturated"):
            np.testing.assert_array_equal(getattr(read, name), kept[name][:, i])
        for name in ("mean", "std"):
            np.testing.assert_array_equal(getattr(read, name), kept[name][:, i].astype(dtype))
        sizes = np.maximum(abs(kept["min"][:, i]), abs(kept["max"][:, i]))
        np.testing.assert_array_equal(read.max_abs, np.where(kept["count"][:, i], sizes, 0))


def test_moments_that_were_not_taken():
    packing = Packing("float32", ("z/0",))
    telemetry = Telemetry({"moments": packing.to_json()}, (Record(0, 0, 1.0, 0.1),))
    for site, meta in (
        (Site("z", 0), telemetry.meta),
        (Site("z", 1), telemetry.meta),
        (SITES[0], {}),
    ):
        steps, moments = Telemetry(meta, telemetry.records).moments(site)
        assert steps.shape == moments.mean.shape == moments.max_abs.shape == (0,)


def test_packed_moments_keep_the_ends_of_float32():
    info = np.finfo(np.float32)
    found = np.zeros((1, 1), MOMENTS)
    ends = (2, 0.0, float(info.max), float(info.min), float(info.max), 0, 0, 0)
    found[0, 0] = ends
    (step,) = Packing("float32", ("z/0",)).pack(found)
    read = Packing("float32", ("z/0",)).unpack([step], "z/0")
    assert (read.min[0], read.max[0], read.std[0]) == (info.min, info.max, info.max)
    tiny = float(info.smallest_subnormal)
    found[0, 0] = (2, tiny / 2, tiny / 2, 0.0, tiny, 1, 0, 0)
    (step,) = Packing("float32", ("z/0",)).pack(found)
    assert Packing("float32", ("z/0",)).unpack([step], "z/0").max[0] == info.smallest_subnormal


# --- what was written is read, or refused


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE records SET loss = loss + 1e-15 WHERE step = 4",
        "UPDATE records SET skipped = 0.0 WHERE step = 4",
        "UPDATE records SET checksum = NULL WHERE step = 4",
        "UPDATE records SET checksum = 'none' WHERE step = 4",
        "UPDATE records SET moments = x'00' WHERE step = 4",
        "UPDATE records SET moments = NULL WHERE step = 4",
        "UPDATE summaries SET zeros = zeros + 1 WHERE step = 4",
        "UPDATE summaries SET units_off = x'FF' WHERE step = 4",
        "DELETE FROM summaries WHERE step = 4 AND site = 'z/0'",
        "UPDATE summaries SET step = 5, site = 'b/0' WHERE step = 6 AND site = 'z/0'",
        "DELETE FROM records WHERE step = 4",
        "UPDATE records SET step = 40 WHERE step = 4",
    ],
)
def test_a_changed_record_is_refused(change, path):
    with Store.create(path) as store:
        write(store, range(9))
    with closing(sqlite3.connect(path)) as database:
        assert database.execute(change).rowcount >= 1
        database.commit()
    with Store.open(path) as store, pytest.raises(RunError, match="agree with its checksum"):
        store.read()


@pytest.mark.parametrize("column", ["name", "value", "checksum"])
def test_a_changed_fact_is_refused(column, path):
    with Store.create(path) as store:
        store.set_meta("rows", "1")
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"UPDATE meta SET {column} = 12")
        database.commit()
    with Store.open(path) as store, pytest.raises(RunError, match="agree with its checksum"):
        store.meta()


# --- a writer that was killed within a transaction that is to be undone

SPILLING = """
    import os, signal, sqlite3
    database = sqlite3.connect({path!r}, isolation_level=None)
    database.execute("PRAGMA journal_mode = DELETE")
    database.execute("PRAGMA cache_size = 1")
    database.execute("BEGIN")
    database.execute("UPDATE records SET loss = -1, lr = -1")
    database.execute("UPDATE summaries SET mean = -1, std = -1")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def spilled(path: Path) -> Path:
    """A store whose pages hold half of a transaction, with the journal that undoes it."""
    with Store.create(path) as store:
        write(store, range(40))
    before = path.read_bytes()
    program = textwrap.dedent(SPILLING).format(path=str(path))
    done = subprocess.run([sys.executable, "-c", program])
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() != before
    assert path.with_name(path.name + "-journal").stat().st_size > 0
    return path


def test_a_transaction_that_a_kill_cut_off_is_undone(spilled):
    with Store.open(spilled) as store:
        assert check_whole(store.read()) == 40
    assert not spilled.with_name(spilled.name + "-journal").exists()


def test_without_its_journal_the_store_is_refused(spilled):
    """The test above can fail: the pages do hold what was never committed."""
    spilled.with_name(spilled.name + "-journal").unlink()
    with Store.open(spilled) as store, pytest.raises(RunError):
        store.read()


READING = """
    import os
    from isograd.telemetry import Store
    from isograd.errors import RunError
    os.setgid(65534), os.setuid(65534)
    try:
        Store.open({path!r}).read()
    except RunError as error:
        print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="takes two users")
def test_a_transaction_to_undo_in_a_folder_that_is_not_ours(spilled):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        Path(folder).chmod(0o755)
        for file in spilled.parent.iterdir():
            shutil.copy(file, folder)
        path = Path(folder) / spilled.name
        program = textwrap.dedent(READING).format(path=str(path))
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert path.read_bytes() == spilled.read_bytes()
    assert done.stderr == ""
    assert "must be an SQLite file that can be read" in done.stdout
    assert str(path) in done.stdout
    assert "permissions" in done.stdout
