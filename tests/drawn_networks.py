"""Networks drawn at random, in plain NumPy: what theory's predictions are held against.

Each step is written out forward and backward, from its definition, for a batch of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from isograd import theory as P


def orthonormal(rng, n_out, n_in):
    n = max(n_out, n_in)
    q, r = np.linalg.qr(rng.standard_normal((n, min(n_out, n_in))))
    q = q * np.sign(np.diag(r))
    return q if n_out == n else q.T


def drawn(step: P.Linear, rng):
    std = np.sqrt(step.sigma_w2 / step.n_in)
    if step.orthogonal:
        size = np.sqrt(max(step.n_in, step.n_out))
        weights = std * size * orthonormal(rng, step.n_out, step.n_in)
    else:
        weights = std * rng.standard_normal((step.n_out, step.n_in))
    return weights, np.sqrt(step.sigma_b2) * rng.standard_normal(step.n_out)


def run(steps: list[P.Step], x, rng) -> tuple[list[Any], list[Any], Any]:
    """The value after each step, and ∂L/∂x before each, for a random error signal at the top."""
    values, backs, skips = [], [], []
    for step in steps:
        match step:
            case P.Linear():
                w, b = drawn(step, rng)
                x, back = x @ w.T + b, lambda g, w=w: g @ w
            case P.Elementwise(phi=phi):
                slope = phi.df(x)
                x, back = phi.f(x), lambda g, d=slope: g * d
            case P.Dropout(rate=rate):
                mask = (rng.random(x.shape) >= rate) / (1 - rate)
                x, back = x * mask, lambda g, m=mask: g * m
            case P.Scale(value=c):
                x, back = c * x, lambda g, c=c: c * g
            case P.Normalise(over=over, eps=eps):
                x, back = normalised(x, over, eps)
            case P.SkipOpens():
                skips.append(x)
                back = None
            case P.SkipCloses():
                x, back = x + skips.pop(), None
        values.append(x)
        backs.append(back)
    g = top = rng.standard_normal(x.shape)
    gradients, open_ = [], []
    for step, back in zip(reversed(steps), reversed(backs), strict=True):
        if isinstance(step, P.SkipCloses):
            open_.append(g)
        elif isinstance(step, P.SkipOpens):
            g = g + open_.pop()
        else:
            g = back(g)
        gradients.append(g)
    return values, gradients[::-1], top


def normalised(x, over, eps):
    axis = 0 if over == "batch" else 1
    centre = over != "square"
    moved = x - x.mean(axis, keepdims=True) if centre else x
    size = np.sqrt(np.mean(moved**2, axis, keepdims=True) + eps)
    unit = moved / size

    def back(g):
        out = g - unit * np.mean(g * unit, axis, keepdims=True)
        return (out - (g.mean(axis, keepdims=True) if centre else 0.0)) / size

    return unit, back


def logs(steps, x, rng):
    """Of each step: ln mean x², ln mean (x − batch mean)², and ln ‖∂L/∂x‖² relative to the top."""
    values, gradients, top = run(steps, x, rng)
    squares = [np.log(np.mean(v**2)) for v in values]
    spreads = [np.log(np.mean((v - v.mean(0)) ** 2)) if len(x) > 1 else 0.0 for v in values]
    norms = [np.log(np.sum(g**2) / np.sum(top**2)) for g in gradients]
    return np.array(squares), np.array(spreads), np.array(norms)
