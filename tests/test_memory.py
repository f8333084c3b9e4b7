"""The memory that a training needs: counted, and measured; limits of containers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from checks import once
from data_files import peak_of
from hypothesis import given
from hypothesis import strategies as st
from random_specs import specs

from isograd.engine.graph import ArraySpec
from isograd.errors import IsogradError, SpecError
from isograd.nn.model import build
from isograd.nn.places import Part, extent
from isograd.nn.spec import Activation, Data, Dense, LayerNorm, Network, Repeat, Residual, Spec
from isograd.nn.toml import loads
from isograd.optim.rules import optimiser
from isograd.training import memory
from isograd.training.data import from_arrays
from isograd.training.memory import free_bytes, require_memory, required_bytes
from isograd.training.start import prepare
from isograd.training.step import compile_step

# --- counted


def written_out(network: Network, n_in: int) -> tuple[int, int]:
    """Parameters, and values per row that a backward pass reads, layer by layer."""
    model = build(network, n_in)
    read = (p.n_in for p in model.places if p.part in (Part.WEIGHTS, Part.NORMALISATION))
    return sum(int(np.prod(s)) for s in model.shapes.values()), sum(read)


@given(specs(), st.integers(1, 50))
def test_layers_are_counted_as_if_they_were_written_out(spec: Spec, n_in: int) -> None:
    try:
        expected = written_out(spec.network, n_in)
    except IsogradError:
        return  # widths that do not fit each other
    assert extent(spec.network.layers).at(n_in) == expected


ACT, PRELU = Activation("tanh"), Activation("prelu")


@pytest.mark.parametrize(
    "layers",
    [
        (Repeat(3, (PRELU,)), Dense(2)),
        (Repeat(3, (LayerNorm(),)), Repeat(4, (Dense(5), PRELU)), Dense(2)),
        (Repeat(2, (Repeat(3, (Dense(7), ACT)), Dense(4))), Dense(2)),
        (Residual((Dense(6), Repeat(5, (PRELU,)))), Repeat(2, (Residual((PRELU,)),)), Dense(1)),
        (Repeat(3, (Repeat(1, (Residual((Dense(6),)),)),)), Dense(3)),
    ],
)
def test_blocks_that_keep_or_change_the_width(layers: tuple[object, ...]) -> None:
    assert extent(layers).at(6) == written_out(Network(layers), 6)


def test_a_million_layers() -> None:
    """By hand: the first of 10·3, the others of 10·10 weights."""
    layers = (Repeat(1000, (Repeat(999, (Dense(10, bias=False),)),)),)
    assert extent(layers).at(3) == (30 + 998_999 * 100, 3 + 998_999 * 10)


# --- measured

NETWORKS = {
    "wide": ("[{ kind = 'dense', units = 700 }, { kind = 'dense', units = 700 }, LAST]", 64),
    "deep": (
        "[{ kind = 'repeat', times = 40, layers = ["
        "{ kind = 'dense', units = 64 }, { kind = 'activation', name = 'tanh' }] }, LAST]",
        1024,
    ),
    "residual": (
        "[{ kind = 'dense', units = 128 }, { kind = 'repeat', times = 12, layers = [{ kind = "
        "'residual', layers = [{ kind = 'layer_norm' }, { kind = 'dense', units = 128 }, "
        "{ kind = 'activation', name = 'relu' }] }] }, LAST]",
        1024,
    ),
}


@pytest.mark.parametrize(
    ("kind", "recompute"),
    [("sgd", "false"), ("momentum", "false"), ("adam", "false"), ("adam", "true")],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_takes_what_is_required_and_at_most_three_times_as_much(
    name: str, kind: str, recompute: str, rng: np.random.Generator
) -> None:
    layers, batch = NETWORKS[name]
    layers = layers.replace("LAST", "{ kind = 'dense', units = 2 }")
    spec = loads(
        f"[data]\nsource = 'arrays'\n[network]\nlayers = {layers}\n"
        f"[optimiser]\nkind = '{kind}'\nlr = 0.1\n[training]\nbatch_size = {batch}\n"
        f"recompute = {recompute}\n"
    )
    X, y = rng.standard_normal((1300, 20)), np.arange(1300) % 2
    split = from_arrays(X, y, Data("arrays"), loss_kind=spec.network.loss)

    def step() -> None:
        start = prepare(spec, split)
        x, t = split.X_train[:batch], split.y_train[:batch]
        state = start.state
        compiled = compile_step(
            start.model,
            optimiser(spec.optimiser, spec.training),
            start.layout,
            ArraySpec(x.shape, x.dtype),
            ArraySpec(t.shape, t.dtype),
            batch,
            start.key,
            recompute=spec.training.recompute,
        )
        carry = state.theta, state.rule, dict(state.statistics)
        once(compiled.bare, carry, (x, t), (np.arange(batch), np.float32(0.1), np.uint32(0)))

    required = required_bytes(spec, 20, batch)
    measured = peak_of(step)
    assert required <= measured <= 3 * required


# --- free


def test_a_network_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes by hand: 4 + 2 times 15 parameters and 8 rows of 4 features, 4 bytes each."""
    spec = loads(
        "[data]\nsource = 'iris'\n[network]\nlayers = [{ kind = 'dense', units = 3 }]\n"
        "[optimiser]\nkind = 'adam'\nlr = 0.1\n"
    )
    needed = 4 * (6 * 15 + 8 * 4)
    assert required_bytes(spec, 4, 8) == needed
    monkeypatch.setattr(memory, "free_bytes", lambda: needed)
    require_memory(spec, 4, 8)
    monkeypatch.setattr(memory, "free_bytes", lambda: needed - 1)
    with pytest.raises(SpecError, match=r"15 parameters and .* 8 rows .* 488 B; 487 B are free\n"):
        require_memory(spec, 4, 8)


GROUPS = {
    "version 2, of a container": (
        "0::/\n",
        {"": ("memory.max", "1000", "memory.current", "700", "anon 600\nfile 50\n")},
        350,
    ),
    "version 2, of a group above": (
        "0::/a/b\n",
        {
            "a/b": ("memory.max", "max", "memory.current", "700", "file 50\n"),
            "a": ("memory.max", "2000", "memory.current", "1900", "file 0\n"),
        },
        100,
    ),
    "version 1": (
        "12:cpu,cpuacct:/x\n4:memory:/docker/1\n0::/\n",
        {
            "memory": (
                *("memory.limit_in_bytes", "5000", "memory.usage_in_bytes", "6000"),
                "cache 1\ntotal_cache 200\n",
            )
        },
        0,
    ),
    "none": ("0::/\n", {}, None),
}


@pytest.mark.parametrize(("own", "folders", "left"), GROUPS.values(), ids=GROUPS)
def test_limits_of_containers(own: str, folders: Any, left: int | None, tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(own)
    for name, (limit, most, use, now, stat) in folders.items():
        folder = tmp_path / "sys/fs/cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in ((limit, most + "\n"), (use, now + "\n"), ("memory.stat", stat)):
            (folder / file).write_text(text)
    if left is None:
        assert free_bytes(tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.5)
    else:
        assert free_bytes(tmp_path) == left


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) > 0
