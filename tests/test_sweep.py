"""Maps: axes, cells side by side, what is kept of them, and what a kill leaves."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from msgspec.structs import replace
from test_define import _forgotten  # noqa: F401
from test_resume import fill, small_disk  # noqa: F401

import isograd
from isograd.errors import DataError, IsogradError, RunError, SpecError
from isograd.nn import (
    SGD,
    Activation,
    Critical,
    Data,
    Dense,
    Network,
    Repeat,
    Spec,
    Training,
    VarianceScaling,
)
from isograd.training import sealed
from isograd.training.axes import MAX_VALUES, Axis, axis
from isograd.training.cells import ABOUT, CELLS, LOCK, Cell
from isograd.training.loop import fit
from isograd.training.start import load_split
from isograd.training.sweep import Map, plan, sweep


def spec_of(activation: str = "tanh", **changes: Any) -> Spec:
    layers = [Repeat(2, [Dense(6), Activation(activation)]), Dense(2)]
    spec = Spec(
        Data("moons", rows=100),
        Network(layers, init=VarianceScaling(1.5, 0.05)),
        SGD(0.15),
        Training(epochs=20, batch_size=16),
    )
    return replace(spec, **changes)


SPEC = spec_of()
X, Y = "sigma_w2=0.5,1.5,2.5", "depth=2,4"
QUICK: Any = {"steps": 12, "backend": "numpy", "jobs": 1}


def told(result: Map) -> dict[tuple[int, int], Any]:
    """The cells but for the time that they took; NaN is one value."""
    return {
        place: repr((cell.stopped, cell.train, cell.test, cell.steps, cell.skipped, cell.reason))
        for place, cell in result.cells.items()
    }


@pytest.fixture(scope="module")
def whole() -> Map:
    """The map in one go."""
    return sweep(SPEC, X, Y, **QUICK)


# --- axes


@pytest.mark.parametrize(
    ("text", "whole", "want"),
    [
        ("depth=1:4:4", True, (1, 2, 3, 4)),
        ("depth=2:11:4", True, (2, 5, 8, 11)),
        ("depth=2:9:4", True, (2, 4, 7, 9)),  # 4⅓ and 6⅔ are rounded
        ("depth=1:3:9", True, (1, 2, 3)),  # each once
        ("depth=1:100:3:log", True, (1, 10, 100)),
        ("x=0.1:0.5:5", False, (0.1, 0.2, 0.3, 0.4, 0.5)),
        ("x=1:4:4", False, (1.0, 2.0, 3.0, 4.0)),
        ("x=-1:1:3", False, (-1.0, 0.0, 1.0)),
        ("lr=1e-4:1:5:log", False, (1e-4, 1e-3, 1e-2, 1e-1, 1.0)),
        ("x=1,1.2,1.4", False, (1, 1.2, 1.4)),
        ("x = 3 , 1, 2 ", False, (1, 2, 3)),
        ("x=1,1,2", False, (1, 2)),
        ("n=16,64,256", True, (16, 64, 256)),
        ("name=tanh,relu", False, ("tanh", "relu")),
        ('name="tanh"', False, ("tanh",)),
        ("flag=true,false", False, (True, False)),
        ("standardise=true,jointly", False, (True, "jointly")),
        ("x=.5,-2e3", False, (-2000.0, 0.5)),
    ],
)
def test_values_of_an_axis(text: str, whole: bool, want: tuple[Any, ...]) -> None:
    got = axis(text, whole=whole)
    assert got.values == pytest.approx(want, rel=1e-12) if got.numeric else got.values == want
    assert [type(v) for v in got.values] == [type(v) for v in want]
    assert got.name == text.partition("=")[0].strip()
    assert got.log is text.endswith(":log")


def test_values_of_a_range_are_short_numbers() -> None:
    assert axis("x=1:2:11").values == (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0)


@pytest.mark.parametrize(
    ("text", "must"),
    [
        ("sigma_w", "a setting and its values"),
        ("=1:2:3", "a setting and its values"),
        ("x=", "a setting and its values"),
        ("x=1:2", "START:STOP:COUNT"),
        ("x=1:2:3:lin", "START:STOP:COUNT"),
        ("x=1:2:3:log:4", "START:STOP:COUNT"),
        ("x=1:2:1", "from 2 to 1000"),
        ("x=1:2:1001", "from 2 to 1000"),
        ("x=1:2:9999999999999", "from 2 to 1000"),
        ("x=1:2:3.5", "from 2 to 1000"),
        ("x=1:2:-3", "from 2 to 1000"),
        ("x=2:1:3", "must rise"),
        ("x=1:1:3", "must rise"),
        ("x=0:1:3:log", "from above 0"),
        ("x=-1:1:3:log", "from above 0"),
        ("x=a:1:3", "'a' must be a finite number"),
        ("x=1:inf:3", "'inf' must be a finite number"),
        ("x=nan", "'nan' must be a finite number"),
        ("x=1,1e999", "'1e999' must be a finite number"),
        ("x=1,,2", "empty places"),
        ("x=" + ",".join(map(str, range(MAX_VALUES + 1))), "at most 1000"),
    ],
)
def test_an_axis_that_cannot_be_read(text: str, must: str) -> None:
    with pytest.raises(SpecError, match=must) as caught:
        axis(text)
    assert caught.value.fix


# --- what is trained


def test_a_cell_is_the_training_of_its_spec(whole: Map) -> None:
    """Each cell against `fit` of a spec that is written out by hand."""
    split = load_split(SPEC)
    for i, sigma_w2 in enumerate((0.5, 1.5, 2.5)):
        for j, depth in enumerate((2, 4)):
            block = [Dense(6), Activation("tanh")]
            network = Network(
                [Repeat(depth - 1, block), Dense(2)], init=VarianceScaling(sigma_w2, 0.05)
            )
            outcome = fit(replace(SPEC, network=network), split, steps=12, backend="numpy")
            cell = whole.cells[i, j]
            assert (cell.train, cell.test) == (outcome.train, outcome.test)
            assert (cell.stopped, cell.steps, cell.skipped) == ("finished", 12, 0)
            assert whole.accuracy[j, i] == outcome.train.accuracy
    assert (whole.metric, whole.interrupted, len(whole.cells)) == ("accuracy", False, 6)
    assert isograd.map is sweep


def test_the_epochs_of_the_spec_bound_the_steps() -> None:
    short = replace(SPEC, training=Training(epochs=2, batch_size=16))
    result = sweep(short, "sigma_w2=1", "depth=2", **QUICK | {"steps": 1000})
    assert result.cells[0, 0].steps == 2 * (len(load_split(short).X_train) // 16)


@pytest.mark.slow
def test_cells_side_by_side_have_the_bits_of_cells_in_turn() -> None:
    alone = sweep(SPEC, X, Y, steps=12, jobs=1)
    assert told(sweep(SPEC, X, Y, steps=12, jobs=2)) == told(alone)
    assert len({repr(cell.train) for cell in alone.cells.values()}) == 6


def test_a_cell_that_diverges_is_a_result() -> None:
    result = sweep(spec_of("relu"), "optimiser.lr=0.1,1e30", "depth=3", **QUICK | {"steps": 60})
    fine, wild = result.cells[0, 0], result.cells[1, 0]
    assert fine.stopped == "finished"
    assert wild.stopped == "diverged"
    assert 0 < wild.skipped <= wild.steps < 60
    assert not math.isfinite(wild.train.loss) or wild.train.accuracy < fine.train.accuracy


def test_a_cell_that_theory_refuses_is_a_result() -> None:
    spec = replace(SPEC, network=replace(SPEC.network, init=Critical()))
    name = "network.layers.0.layers.1.name=tanh,softplus"
    result = sweep(spec, name, "depth=2,3", **QUICK)
    assert [result.cells[0, j].stopped for j in (0, 1)] == ["finished"] * 2
    refused = result.cells[1, 0]
    assert refused.stopped == "refused"
    assert "no critical initialisation" in refused.reason
    assert np.isnan(result.accuracy[:, 1]).all()


def test_an_axis_of_the_data_changes_them() -> None:
    result = sweep(SPEC, "data.noise=0.0,0.5", "seed=0,1", **QUICK)
    for i, noise in enumerate((0.0, 0.5)):
        for seed in (0, 1):
            edited = replace(SPEC, seed=seed, data=replace(SPEC.data, noise=noise))
            outcome = fit(edited, load_split(edited), steps=12, backend="numpy")
            assert result.cells[i, seed].train == outcome.train


def test_a_regression_has_its_own_metric() -> None:
    layers = [Repeat(2, [Dense(4), Activation("tanh")]), Dense(1)]
    spec = replace(
        SPEC,
        data=Data("diabetes"),
        network=Network(layers, isograd.nn.MeanSquaredError(), VarianceScaling()),
    )
    assert sweep(spec, "sigma_w=1", "depth=2", **QUICK).metric == "R²"


@pytest.mark.parametrize(
    ("x", "y", "must"),
    [
        ("sigma_w2=-1:1:3", "depth=2", "sigma_w2 must be a number of at least 0"),
        ("sigma_w=1", "depth=1,2", "depth must be a whole number of at least 2"),
        ("optimiser.lr=0.1,0", "depth=2", "lr must be a finite number above 0"),
        ("optimizer.lr=0.1", "depth=2", "must be a key of the spec"),
        ("depth=2", "depth=3", "must be two settings"),
        ("network.layers[0].times=2", "network.layers.0.times=3", "must be two settings"),
        ("network.layers.0.times=1,2", "depth=2,3", "must be two settings"),
        ("sigma_w=1,2", "sigma_w2=1,2", "must be two settings"),
        ("optimiser.lr=0.1,fast", "depth=2", "lr must be a number"),
        ("training.batch_size=1.5", "depth=2", "batch_size must be a whole number"),
    ],
)
def test_nothing_is_trained_of_a_map_with_a_wrong_cell(
    x: str, y: str, must: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=must):
        sweep(SPEC, x, y, folder=tmp_path / "map", **QUICK)
    assert not (tmp_path / "map").exists()


def test_a_network_that_does_not_fit_its_data_is_no_map(tmp_path: Path) -> None:
    network = Network([Repeat(2, [Dense(4)]), Dense(7)], init=VarianceScaling())
    with pytest.raises(SpecError, match="must have"):
        sweep(replace(SPEC, network=network), X, Y, folder=tmp_path / "map", **QUICK)
    with pytest.raises(DataError):
        sweep(replace(SPEC, data=Data("nowhere.csv")), X, Y, folder=tmp_path / "map", **QUICK)
    assert not (tmp_path / "map").exists()


def test_the_plan_has_every_cell_and_says_what_edits_do() -> None:
    xavier = replace(SPEC, network=replace(SPEC.network, init=isograd.nn.Xavier()))
    chosen = plan(xavier, Axis("sigma_w", (1, 2)), "depth=2:4:3", steps=5)
    assert set(chosen.specs) == {(i, j) for i in range(2) for j in range(3)}
    assert chosen.specs[1, 2].network.init == VarianceScaling(4.0)
    assert "becomes" in chosen.notes[0]
    with pytest.raises(SpecError, match="must train its cells"):
        plan(SPEC, X, Y, steps=0)


def test_progress_counts_the_cells_that_were_done() -> None:
    said: list[tuple[int, int, str]] = []
    sweep(SPEC, X, Y, progress=lambda *words: said.append(words), **QUICK)
    assert [words[:2] for words in said] == [(n, 6) for n in range(7)]
    assert said[1][2].startswith("sigma_w2 ")
    assert "depth 4" in said[1][2], "the largest first"
    assert "depth 2" in said[-1][2]


# --- what is kept


def stop_after(cells: int) -> Any:
    def tell(done: int, total: int, note: str) -> None:
        if done >= cells:
            raise KeyboardInterrupt

    return tell


def test_an_interrupted_map_goes_on_and_ends_the_same(whole: Map, tmp_path: Path) -> None:
    folder = tmp_path / "maps" / "one"
    for cells in (2, 3, 5):
        part = sweep(SPEC, X, Y, folder=folder, progress=stop_after(cells), **QUICK)
        assert part.interrupted
        assert len(part.cells) == cells
        assert len((folder / CELLS).read_text().splitlines()) == cells
    rest: list[int] = []
    done = sweep(SPEC, X, Y, folder=folder, progress=lambda n, *_: rest.append(n), **QUICK)
    assert rest == [5, 6], "the others are not trained again"
    assert told(done) == told(whole)
    again = sweep(SPEC, X, Y, folder=folder, **QUICK)
    assert again.cells == done.cells, "to the bit, and the seconds too"


KILLED = """
import os, signal, sys
from test_sweep import QUICK, SPEC, X, Y, sweep

def tell(done, total, note):
    if done >= int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

sweep(SPEC, X, Y, folder=sys.argv[1], progress=tell, **QUICK | {"jobs": int(sys.argv[3])})
"""


def killed(folder: Path, cells: int, jobs: int) -> None:
    """A map in another process, killed by itself after so many cells."""
    command = [sys.executable, "-c", KILLED, str(folder), str(cells), str(jobs)]
    process = subprocess.Popen(command, cwd=Path(__file__).parent, start_new_session=True)
    assert process.wait(timeout=120) == -signal.SIGKILL
    with contextlib.suppress(ProcessLookupError):  # its workers wait for work, for minutes
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_map_killed_between_cells_goes_on(jobs: int, whole: Map, tmp_path: Path) -> None:
    for cells in (0, 1, 4):
        killed(tmp_path / "map", cells, jobs)
        lines = (tmp_path / "map" / CELLS).read_bytes().count(b"\n")
        assert lines >= cells
    assert told(sweep(SPEC, X, Y, folder=tmp_path / "map", **QUICK)) == told(whole)


@pytest.mark.slow
def test_a_map_killed_at_any_moment_goes_on(whole: Map, tmp_path: Path) -> None:
    """Twelve kills, from before the folder is there to after the last cell."""
    code = KILLED.replace(">= int(sys.argv[2])", "> 1000")
    for number in range(12):
        folder = tmp_path / f"map{number // 3}"
        command = [sys.executable, "-c", code, str(folder), "0", "1"]
        process = subprocess.Popen(command, cwd=Path(__file__).parent)
        deadline = time.monotonic() + 60
        while not folder.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.001)
        time.sleep(0.03 * number)
        process.kill()
        process.wait()
    for number in range(4):
        assert told(sweep(SPEC, X, Y, folder=tmp_path / f"map{number}", **QUICK)) == told(whole)


def test_any_torn_or_damaged_file_of_cells_is_gone_on_with(whole: Map, tmp_path: Path) -> None:
    """Cut within the last line, and with bytes changed: what does not add up is trained again."""
    folder = tmp_path / "map"
    sweep(SPEC, X, Y, folder=folder, **QUICK)
    content = (folder / CELLS).read_bytes()
    lines = content.splitlines(keepends=True)
    start = len(content) - len(lines[-1])
    rng = np.random.default_rng(3)
    for cut in [start, start + 1, *rng.integers(start, len(content), 10), len(content) - 1]:
        (folder / CELLS).write_bytes(content[:cut])
        assert told(sweep(SPEC, X, Y, folder=folder, **QUICK)) == told(whole), cut
        kept = (folder / CELLS).read_bytes()
        assert kept.startswith(content[:start]), "whole lines stay as they are"
        assert kept.endswith(b"}\n")
    for place in rng.integers(0, len(content) - 1, 10):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(0, 7))
        (folder / CELLS).write_bytes(damaged)
        assert told(sweep(SPEC, X, Y, folder=folder, **QUICK)) == told(whole), place
        assert len((folder / CELLS).read_bytes().splitlines()) == 6


def test_a_map_killed_before_it_has_begun_is_a_new_one(whole: Map, tmp_path: Path) -> None:
    folder = tmp_path / "map"
    folder.mkdir()
    (folder / LOCK).touch()
    (folder / (ABOUT + ".partial")).write_text("{")
    assert told(sweep(SPEC, X, Y, folder=folder, **QUICK)) == told(whole)


@pytest.mark.parametrize(
    ("change", "came"),
    [
        ({"spec": replace(SPEC, optimiser=SGD(0.2))}, "another spec: '-lr = 0.15'; '+lr = 0.2'"),
        ({"spec": replace(SPEC, seed=1)}, "another spec: '+seed = 1'"),
        ({"x": "sigma_w2=0.5,1.5"}, "another x: "),
        ({"x": "sigma_w=0.5,1.5,2.5"}, "another x: "),
        ({"y": "depth=2,5"}, "[2, 5]"),
        ({"steps": 13}, "another steps: 13, and it began with 12"),
        ({"backend": "native"}, "another backend: 'native', and it began with 'numpy'"),
    ],
)
def test_another_map_is_not_mixed_in(
    change: dict[str, Any], came: str, tmp_path: Path, whole: Map
) -> None:
    folder = tmp_path / "map"
    sweep(SPEC, X, Y, folder=folder, **QUICK)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    options = {"spec": SPEC, "x": X, "y": Y, "folder": folder, **QUICK} | change
    with pytest.raises(RunError, match="gone on with as it began") as caught:
        sweep(**options)
    assert came in caught.value.came
    assert str(folder) in caught.value.where
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_other_data_under_the_same_name_are_refused(tmp_path: Path) -> None:
    lines = ["a,b,y", *(f"{i % 7},{i % 5},{i % 2}" for i in range(40))]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    spec = replace(SPEC, data=Data("x.csv"))
    sweep(spec, "sigma_w2=1", "depth=2", folder=tmp_path / "map", base=tmp_path, **QUICK)
    (tmp_path / "x.csv").write_text("\n".join([*lines[:-1], "9,9,1"]))
    with pytest.raises(RunError, match="as it began") as caught:
        sweep(spec, "sigma_w2=1", "depth=2", folder=tmp_path / "map", base=tmp_path, **QUICK)
    assert "another data" in caught.value.came


def test_folders_that_are_no_map_of_this_version(tmp_path: Path) -> None:
    folder = tmp_path / "map"

    def refused(must: str, came: str) -> None:
        with pytest.raises(RunError, match=must) as caught:
            sweep(SPEC, X, Y, folder=folder, **QUICK)
        assert came in caught.value.came
        assert caught.value.fix

    folder.mkdir()
    (folder / "dear.txt").write_text("dear")
    refused("must be new, or hold a map", "'dear.txt'")
    (folder / ABOUT).write_text("{")
    refused("must say what a map is of", "")
    (folder / ABOUT).write_text(json.dumps({"version": 99}))
    refused("version 1 or lower", "version 99")
    shutil.rmtree(folder)
    folder.write_text("a file")
    refused("must be writable", "exists")


def test_one_process_writes_a_map(tmp_path: Path) -> None:
    folder = tmp_path / "map"
    sweep(SPEC, "sigma_w2=1", "depth=2", folder=folder, **QUICK)
    with (
        sealed.locked(folder / LOCK, "", ""),
        pytest.raises(RunError, match="only one process may write"),
    ):
        sweep(SPEC, "sigma_w2=1", "depth=2", folder=folder, **QUICK)


@pytest.mark.parametrize("leave", [0, 2000, 5000])
def test_a_full_disk_keeps_what_is_done(
    leave: int,
    small_disk: Path,  # noqa: F811
    whole: Map,
) -> None:
    folder = small_disk / "map"
    folder.mkdir()
    ballast = fill(small_disk, leave)
    with pytest.raises(RunError, match="must be writable") as caught:
        sweep(SPEC, X, Y, folder=folder, progress=lambda *_: fill_up(small_disk), **QUICK)
    assert "No space" in caught.value.came
    ballast.unlink()
    (small_disk / "more").unlink(missing_ok=True)
    assert told(sweep(SPEC, X, Y, folder=folder, **QUICK)) == told(whole)


def fill_up(disk: Path) -> None:
    """Leave less than a page: a cell's line that goes beyond its page finds no room."""
    with (disk / "more").open("ab") as file:
        file.write(b"\0" * shutil.disk_usage(disk).free)


def test_not_finite_scores_are_kept(tmp_path: Path) -> None:
    options = {"x": "optimiser.lr=0.1,1e30", "y": "depth=3", "folder": tmp_path / "map"}
    first = sweep(spec_of("relu"), **options, **QUICK | {"steps": 60})
    again = sweep(spec_of("relu"), **options, **QUICK | {"steps": 60})
    assert told(first) == told(again)
    assert "nan" in told(first)[1, 0] or "inf" in told(first)[1, 0]


def test_cells_of_other_versions_of_a_line_are_not_taken(tmp_path: Path) -> None:
    """A planted fault: a line that is valid JSON with another accuracy is seen by its checksum."""
    folder = tmp_path / "map"
    sweep(SPEC, "sigma_w2=1", "depth=2", folder=folder, **QUICK)
    line = json.loads((folder / CELLS).read_text())
    line["cell"]["train"]["accuracy"] = 1.0
    (folder / CELLS).write_text(json.dumps(line) + "\n")
    rest: list[int] = []
    sweep(
        *(SPEC, "sigma_w2=1", "depth=2"),
        folder=folder,
        progress=lambda n, *_: rest.append(n),
        **QUICK,
    )
    assert rest == [0, 1]


# --- clusters and workers


@pytest.mark.slow
@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_on_dask_s_local_cluster(processes: bool, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    alone = sweep(SPEC, X, Y, steps=12, jobs=1)
    with (
        distributed.LocalCluster(
            n_workers=2 if processes else 1,
            threads_per_worker=1,
            processes=processes,
            dashboard_address=None,
            local_directory=str(tmp_path),
        ) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        there = isograd.map(SPEC, X, Y, steps=12, folder=tmp_path / "map")
    assert told(there) == told(alone)
    assert told(sweep(SPEC, X, Y, steps=12, jobs=1, folder=tmp_path / "map")) == told(alone)


@pytest.mark.slow
def test_an_activation_of_the_program_reaches_the_workers() -> None:
    isograd.nn.define_activation("doubled_tanh", lambda x: np.tanh(2.0 * x))
    spec = spec_of("doubled_tanh")
    there = sweep(spec, "sigma_w2=0.5,1.5", "depth=3", steps=12, jobs=2)
    assert told(there) == told(sweep(spec, "sigma_w2=0.5,1.5", "depth=3", steps=12, jobs=1))
    assert there.cells[0, 0].stopped == "finished"


def die(*_: Any) -> Cell:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isograd.training.sweep._cell", die)
    with pytest.raises(RunError, match="must stay alive") as caught:
        sweep(SPEC, X, Y, steps=12, jobs=2, folder=tmp_path / "map")
    assert "--jobs 1" in caught.value.fix
    assert issubclass(RunError, IsogradError)
