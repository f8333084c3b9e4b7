"""What theory expects of one model, and of the inputs it has."""

from __future__ import annotations

import numpy as np
import pytest

from isograd.diagnosis.expected import expected, moments_of
from isograd.nn.model import build
from isograd.nn.spec import Activation, BatchNorm, Dense, He, Network, Residual, Xavier, Zeros


def test_moments_are_those_of_the_rows() -> None:
    x = np.random.default_rng(0).standard_normal((40, 6)) + 1.0
    second, cross = moments_of(x, quantiles=1)
    gram = x @ x.T / 6
    assert second == pytest.approx(np.mean(x**2))
    assert cross == pytest.approx([np.median(gram[np.triu_indices(40, 1)])])


def test_layers_below_the_first_unknown_are_given() -> None:
    layers = (Dense(8), Activation("tanh"), Dense(8, init=Zeros()), Activation("tanh"), Dense(3))
    e = expected(build(Network(layers, init=Xavier()), 8))
    assert not e.covered
    assert e.reason == "layer 2: the weights are not random, or scaled to the data"
    assert [at.layer for at in e.layers] == [1]
    assert np.isnan(e.layers[0].delta.decades)


def test_other_networks_are_read_off_their_profile() -> None:
    """χ₁ is then the mean factor a layer, and the top is what all else is relative to."""
    block = Residual((BatchNorm(), Activation("relu"), Dense(64)))
    e = expected(build(Network((Dense(64), block, block, Dense(3)), init=He()), 64))
    assert e.covered
    assert len(e.layers) == 4
    first, last = e.layers[0], e.layers[-1]
    assert e.decades_per_layer == pytest.approx(first.delta.decades / 3)
    assert e.spread_decades == first.delta.sd > 0
    assert last.delta.decades == last.delta.sd == 0


@pytest.mark.parametrize("behind", [False, True])
def test_gradients_explode_through_batch_normalisation(behind: bool) -> None:
    """By π/(π − 1) a layer in squares (Yang et al. 2019), whichever side of the ReLU it stands."""
    n = 4096
    parts = (Activation("relu"), BatchNorm()) if behind else (BatchNorm(), Activation("relu"))
    layers = (*(Dense(n), *parts) * 12, Dense(3))
    e = expected(build(Network(layers, init=He()), n), batch=n)
    rise = (e.layers[2].delta.decades - e.layers[9].delta.decades) / 7
    assert rise == pytest.approx(0.5 * np.log10(np.pi / (np.pi - 1)), rel=0.02)
