"""Steps: does the learning rate suit the network where it starts?"""

from __future__ import annotations

import math

from isograd.diagnosis.outlook.common import Item, Look, State
from isograd.diagnosis.step_size import stability_form
from isograd.theory import safe_learning_rate

CATAPULT = 6.0
"""Times the stable rate 2/λ up to which wide networks still trained by gradient descent on the
squared error: 12/λ for ReLU, less for others (Lewkowycz et al. 2020, sec. 2). Beyond it nothing is
known to train, under no loss."""


def learning_rate(look: Look) -> Item | None:
    """Is the learning rate one that the network can take where it starts?"""
    s = look.step_size
    if s is None or look.measured is None or not look.measured.finite:
        return None
    must = "a rate below the largest stable one at the start, and high enough for the run"
    source = "Cohen et al. 2021, sec. 2; Lewkowycz et al. 2020, sec. 2"
    if s.skipped:
        came = f"no range: {s.skipped}"
        return Item("learning rate", "note", None, s.lr, came, must, source)
    state: State = "ok"
    came = f"{s.lr:.2g}, in the range from {_text(s.low)} to {_text(s.high)}"
    if s.low is not None and s.high is not None and s.low > s.high:
        state = "note"
        came = (
            f"{s.lr:.2g}; none is both stable at the start, up to {s.high:.2g}, and high enough "
            f"for the run, from {s.low:.2g} on"
        )
    elif s.standing == "above" and s.high is not None:
        state, times = "note", s.lr / s.high
        came = (
            f"{s.lr:.2g}, {times:.2g} times the largest that is stable at the start, {s.high:.2g}; "
            f"one to try is {s.rate:.2g}"
        )
        # Normalised weights grow until the step is small beside them (Arora, Li & Lyu 2019).
        if look.epsilon is None and not look.normalised and times > CATAPULT:
            state = "doubt"
    elif s.standing == "below":
        state = "note"
        came = (
            f"{s.lr:.2g}: to fall by a factor e over the run, as steeply as at first, the loss "
            f"needs {_text(s.low)}; stable up to {_text(s.high)}"
        )
    limit = _penalty_limit(look)
    if s.lr > limit:
        state, came = "bad", f"{s.lr:.2g}; above {limit:.2g} the weight penalty alone diverges"
    m = look.measured
    if m.steps == 1 and m.after > m.loss:
        state = max(state, "note", key=("ok", "note", "doubt", "bad").index)
        came += f"; the first step raises its batch's loss from {m.loss:.3g} to {m.after:.3g}"
    return Item("learning rate", state, None, s.lr, came, must, source)


def _penalty_limit(look: Look) -> float:
    """The largest rate that is stable for ½λ‖W‖², whose curvature λ no step can get away from."""
    if look.epsilon is not None:
        return math.inf
    method, beta, _ = stability_form(look.spec.optimiser)
    return safe_learning_rate(look.spec.network.loss.l2, method, beta=beta)


def _text(rate: float | None) -> str:
    return "any" if rate is None or math.isinf(rate) else f"{rate:.2g}"
