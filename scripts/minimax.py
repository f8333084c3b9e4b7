"""Derives the polynomials of the native maths.

    python scripts/minimax.py > isograd/backends/llvm/coefficients.py

Each is the polynomial of least degree whose largest weighted error on an interval is below
2^−(digits + 3), found by the exchange algorithm (Remez 1934; Muller 2016, sec. 3.6) with mpmath
at 60 digits. The weight turns the error of the polynomial into a relative error of the function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mpmath
import numpy as np
from mpmath import mp, mpf

mp.dps = 60
DIGITS = {"float32": 24, "float64": 53}
Function = Callable[[mpf], mpf]


@dataclass(frozen=True)
class Target:
    """What a polynomial stands for.

    Attributes:
        name: of its table.
        meaning: a line for the reader.
        function: of the variable.
        weight: its error times this counts.
        interval: of the variable, for each format.
        spare: binary digits beyond those of the format.
    """

    name: str
    meaning: str
    function: Function
    weight: Function
    interval: dict[str, tuple[mpf, mpf]]
    spare: int = 3


def value(coefficients: Sequence[mpf], t: mpf) -> mpf:
    return mpmath.polyval(list(reversed(coefficients)), t)


def minimax(
    f: Function, weight: Function, low: mpf, high: mpf, degree: int
) -> tuple[list[mpf], mpf]:
    """The coefficients, from the constant on, and the largest weighted error."""
    count = 40 * (degree + 2)
    grid = [
        (low + high) / 2 - (high - low) / 2 * mpmath.cos(mp.pi * i / count)
        for i in range(count + 1)
    ]
    exact = [f(t) for t in grid]
    weights = [abs(weight(t)) for t in grid]
    at = [20 + 40 * i for i in range(degree + 2)]
    for _ in range(30):
        rows = [
            [weights[i] * grid[i] ** j for j in range(degree + 1)] + [mpf(-1) ** k]
            for k, i in enumerate(at)
        ]
        solution = mpmath.lu_solve(
            mpmath.matrix(rows), mpmath.matrix([weights[i] * exact[i] for i in at])
        )
        coefficients, level = list(solution[: degree + 1]), abs(solution[degree + 1])
        errors = [
            w * (value(coefficients, t) - e) for t, e, w in zip(grid, exact, weights, strict=True)
        ]
        peaks: list[int] = []  # of each stretch of one sign
        for i, error in enumerate(errors):
            if error == 0:
                continue
            if peaks and (errors[peaks[-1]] > 0) == (error > 0):
                if abs(error) > abs(errors[peaks[-1]]):
                    peaks[-1] = i
            else:
                peaks.append(i)
        while len(peaks) > degree + 2:
            peaks.pop(0 if abs(errors[peaks[0]]) < abs(errors[peaks[-1]]) else -1)
        largest = max(abs(e) for e in errors)
        if len(peaks) < degree + 2 or largest < level * mpf("1.001"):
            break
        at = peaks
    return coefficients, largest


def _ratio(numerator: Function, power: int, limit: float) -> Function:
    """numerator(t)/t^power, by its limit at 0."""
    return lambda t: numerator(t) / t**power if t else mpf(limit)


def _atanh_rest(z: mpf) -> mpf:
    s = mpmath.sqrt(z)
    return (mpmath.log((1 + s) / (1 - s)) / s - 2) / z if z else mpf(2) / 3


def _sin_rest(z: mpf) -> mpf:
    r = mpmath.sqrt(z)
    return (mpmath.sin(r) / r - 1) / z if z else -mpf(1) / 6


def _cos_rest(z: mpf) -> mpf:
    return (mpmath.cos(mpmath.sqrt(z)) - 1 + z / 2) / z**2 if z else mpf(1) / 24


def _erf_rest(z: mpf) -> mpf:
    x = mpmath.sqrt(z)
    return mpmath.erf(x) / x - 1 if z else 2 / mpmath.sqrt(mp.pi) - 1


def _erfc_rest(middle: mpf) -> Function:
    def rest(t: mpf) -> mpf:
        x = middle * (1 + t) / (1 - t)
        return (1 + 2 * x) * mpmath.exp(x * x) * mpmath.erfc(x) - 1

    return rest


def _around(x: mpf) -> mpf:
    return (x - ERFC_MIDDLE) / (x + ERFC_MIDDLE)


def both(low: mpf, high: mpf) -> dict[str, tuple[mpf, mpf]]:
    return dict.fromkeys(DIGITS, (low, high))


HALF_LN2 = mpmath.log(2) / 2 * mpf("1.0001")
QUARTER_PI = mp.pi / 4 * mpf("1.0001")
ATANH = (mpmath.sqrt(2) - 1) / (mpmath.sqrt(2) + 1)
ERFC_MIDDLE = mpf("3")
ERF_LAST = mpf("0.5")
ERFC_LAST = {"float32": mpf("10.2"), "float64": mpf("27.3")}
TARGETS = (
    Target(
        "EXP",
        "(eʳ − 1 − r)/r² for |r| ≤ ½ ln 2",
        _ratio(lambda r: mpmath.expm1(r) - r, 2, 0.5),
        lambda r: r,
        both(-HALF_LN2, HALF_LN2),
        spare=2,
    ),
    Target(
        "LOG",
        "(ln((1 + s)/(1 − s))/s − 2)/s² in s², for (1 + s)/(1 − s) from √½ to √2",
        _atanh_rest,
        lambda z: z / 2,
        both(mpf(0), ATANH**2),
    ),
    Target(
        "LOG_WIDE",
        "the same for (1 + s)/(1 − s) from 1 to 2",
        _atanh_rest,
        lambda z: z / 2,
        both(mpf(0), mpf(1) / 9),
    ),
    Target(
        "LOG_TAIL",
        "what is left of LOG beyond 2/3, over s², to the digits that powers need",
        lambda z: (_atanh_rest(z) - mpf(2) / 3) / z if z else mpf(2) / 5,
        lambda z: z * z / 2,
        {"float64": (mpf(0), ATANH**2)},
        spare=15,
    ),
    Target(
        "SIN",
        "(sin(r)/r − 1)/r² in r², for |r| ≤ π/4",
        _sin_rest,
        lambda z: z,
        both(mpf(0), QUARTER_PI**2),
    ),
    Target(
        "COS",
        "(cos r − 1 + ½r²)/r⁴ in r², for |r| ≤ π/4",
        _cos_rest,
        lambda z: z * z,
        both(mpf(0), QUARTER_PI**2),
    ),
    Target(
        "ERF",
        "erf(x)/x − 1 in x², for |x| ≤ ½",
        _erf_rest,
        lambda z: mpf(1),
        both(mpf(0), ERF_LAST**2),
    ),
    Target(
        "ERFC",
        f"(1 + 2x)·exp(x²)·erfc(x) − 1 in (x − {ERFC_MIDDLE})/(x + {ERFC_MIDDLE}), for x ≥ ½",
        _erfc_rest(ERFC_MIDDLE),
        lambda t: mpf(1),
        {k: (_around(ERF_LAST), _around(last)) for k, last in ERFC_LAST.items()},
    ),
)


def derive(target: Target, format: str) -> tuple[list[mpf], mpf]:
    """The polynomial of least degree that is near enough."""
    digits = DIGITS[format]
    low, high = target.interval[format]
    for degree in range(1, 40):
        coefficients, error = minimax(target.function, target.weight, low, high, degree)
        if error < mpf(2) ** -(digits + target.spare):
            return coefficients, error
    raise AssertionError(f"{target.name} has no polynomial of a degree below 40")


def main() -> None:
    print('"""Coefficients of the minimax polynomials, as scripts/minimax.py derives them.\n')
    print("From the constant on; beside each format, log₂ of the largest weighted error.")
    print('"""\n\nfrom __future__ import annotations')
    print(f"\nERFC_MIDDLE = {float(ERFC_MIDDLE)}")
    for target in TARGETS:
        print(f"\n# {target.meaning}\n{target.name} = {{")
        for format in target.interval:
            coefficients, error = derive(target, format)
            print(f'    "{format}": (  # {mpmath.nstr(mpmath.log(error, 2), 4)}')
            for c in coefficients:
                number = np.float32(float(c)) if format == "float32" else np.float64(float(c))
                print(f"        {number!s},")
            print("    ),")
        print("}")


if __name__ == "__main__":
    main()
