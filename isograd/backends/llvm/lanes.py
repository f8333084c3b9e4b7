"""Values of n lanes with Python's operators, so that formulas read as on paper.

A value is one of `Floats` (float32 or float64), `Integers`, `Unsigned` or `Mask` (true or false),
with n = 1, or more in a vector register. An operator appends one instruction to the block
that the builder is at; a number beside a value is repeated in every lane. Rounding is IEEE 754's
(2019) to nearest even, NaNs, infinities, subnormals and signed zeros included: no instruction is
flagged as fast, so LLVM neither contracts nor reorders. The bits of a lane therefore depend neither
on n nor on its place.

`fma` and `round_down` are single instructions on AArch64 and on x86-64 from level v3 on; below that
they are calls of the C library, slow but to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from llvmlite import ir

from isograd.backends.llvm.formats import FLOAT32, FLOAT64, Format


@dataclass(frozen=True, slots=True, eq=False)
class _Lanes:
    """A value in the block under construction.

    Attributes:
        builder: where instructions are appended.
        value: the LLVM value; a scalar for n = 1, else a vector.
    """

    builder: Any
    value: Any

    @property
    def n(self) -> int:
        kind = self.value.type
        return int(kind.count) if isinstance(kind, ir.VectorType) else 1

    @property
    def _element(self) -> Any:
        kind = self.value.type
        return kind.element if isinstance(kind, ir.VectorType) else kind

    def _typed(self, element: Any) -> Any:
        return element if self.n == 1 else ir.VectorType(element, self.n)

    def like(self, other: Self | float) -> Self:
        """A number in every lane; a value as it is."""
        if isinstance(other, _Lanes):
            return other
        kind = self.value.type
        if self.n == 1:
            return type(self)(self.builder, ir.Constant(kind, other))
        element = ir.Constant(self._element, other)
        return type(self)(self.builder, ir.Constant(kind, [element] * self.n))

    def _apply(self, instruction: str, other: Self | float) -> Self:
        value = getattr(self.builder, instruction)(self.value, self.like(other).value)
        return type(self)(self.builder, value)


Value = TypeVar("Value", bound=_Lanes)


class Mask(_Lanes):
    """True or false in every lane."""

    __slots__ = ()

    def __and__(self, other: Mask) -> Mask:
        return self._apply("and_", other)

    def __or__(self, other: Mask) -> Mask:
        return self._apply("or_", other)

    def __xor__(self, other: Mask) -> Mask:
        return self._apply("xor", other)

    def __invert__(self) -> Mask:
        return self._apply("xor", 1)

    def any(self) -> Any:
        """Whether a lane is true, as one LLVM bit to branch on."""
        if self.n == 1:
            return self.value
        word = ir.IntType(self.n)
        packed = self.builder.bitcast(self.value, word)
        return self.builder.icmp_unsigned("!=", packed, ir.Constant(word, 0))


class Integers(_Lanes):
    """Integers in two's complement; sums, differences and products wrap."""

    __slots__ = ()

    @property
    def format(self) -> Format:
        return FLOAT32 if self._element.width == 32 else FLOAT64

    def __add__(self, other: Self | int) -> Self:
        return self._apply("add", other)

    def __sub__(self, other: Self | int) -> Self:
        return self._apply("sub", other)

    def __mul__(self, other: Self | int) -> Self:
        return self._apply("mul", other)

    def __and__(self, other: Self | int) -> Self:
        return self._apply("and_", other)

    def __or__(self, other: Self | int) -> Self:
        return self._apply("or_", other)

    def __xor__(self, other: Self | int) -> Self:
        return self._apply("xor", other)

    def __lshift__(self, other: int) -> Self:
        return self._apply("shl", other)

    def __rshift__(self, other: int) -> Self:
        """Shifted to the right; the sign is kept."""
        return self._apply("ashr", other)

    def __neg__(self) -> Self:
        return self.like(0) - self

    def __abs__(self) -> Self:
        """|x|; the least number stays as it is, as its opposite is none."""
        return select(self < 0, -self, self)

    def _compare(self, sign: str, other: Self | int) -> Mask:
        other = self.like(other)
        return Mask(self.builder, self.builder.icmp_signed(sign, self.value, other.value))

    def eq(self, other: Self | int) -> Mask:
        return self._compare("==", other)

    def ne(self, other: Self | int) -> Mask:
        return self._compare("!=", other)

    def __lt__(self, other: Self | int) -> Mask:
        return self._compare("<", other)

    def __le__(self, other: Self | int) -> Mask:
        return self._compare("<=", other)

    def __gt__(self, other: Self | int) -> Mask:
        return self._compare(">", other)

    def __ge__(self, other: Self | int) -> Mask:
        return self._compare(">=", other)

    def floats(self) -> Floats:
        """The same bits, read as numbers."""
        kind = self._typed(self.format.ir_float)
        return Floats(self.builder, self.builder.bitcast(self.value, kind))

    def number(self) -> Floats:
        """The number of the same value; |value| ≤ 2^(digits − 2)."""
        whole = self.format.whole
        return (self + self.format.pattern(whole)).floats() - whole

    def power_of_two(self) -> Floats:
        """2^value; −bias < value ≤ bias."""
        return ((self << self.format.shift) + self.format.pattern(1.0)).floats()


class Floats(_Lanes):
    """Numbers of one floating-point format.

    Comparisons are false where an argument is NaN; `ne` is true there.
    """

    __slots__ = ()

    @property
    def format(self) -> Format:
        return FLOAT32 if isinstance(self._element, ir.FloatType) else FLOAT64

    def __add__(self, other: Floats | float) -> Floats:
        return self._apply("fadd", other)

    def __radd__(self, other: float) -> Floats:
        return self.like(other) + self

    def __sub__(self, other: Floats | float) -> Floats:
        return self._apply("fsub", other)

    def __rsub__(self, other: float) -> Floats:
        return self.like(other) - self

    def __mul__(self, other: Floats | float) -> Floats:
        return self._apply("fmul", other)

    def __rmul__(self, other: float) -> Floats:
        return self.like(other) * self

    def __truediv__(self, other: Floats | float) -> Floats:
        return self._apply("fdiv", other)

    def __rtruediv__(self, other: float) -> Floats:
        return self.like(other) / self

    def __neg__(self) -> Floats:
        return Floats(self.builder, self.builder.fneg(self.value))

    def __abs__(self) -> Floats:
        return _intrinsic("fabs", self)

    def _compare(self, sign: str, other: Floats | float) -> Mask:
        other = self.like(other)
        return Mask(self.builder, self.builder.fcmp_ordered(sign, self.value, other.value))

    def __lt__(self, other: Floats | float) -> Mask:
        return self._compare("<", other)

    def __le__(self, other: Floats | float) -> Mask:
        return self._compare("<=", other)

    def __gt__(self, other: Floats | float) -> Mask:
        return self._compare(">", other)

    def __ge__(self, other: Floats | float) -> Mask:
        return self._compare(">=", other)

    def eq(self, other: Floats | float) -> Mask:
        return self._compare("==", other)

    def ne(self, other: Floats | float) -> Mask:
        other = self.like(other)
        return Mask(self.builder, self.builder.fcmp_unordered("!=", self.value, other.value))

    def bits(self) -> Integers:
        """The same bits, read as integers."""
        kind = self._typed(self.format.ir_integer)
        return Integers(self.builder, self.builder.bitcast(self.value, kind))

    def wide(self) -> Floats:
        """The same numbers in float64."""
        kind = self._typed(ir.DoubleType())
        return Floats(self.builder, self.builder.fpext(self.value, kind))

    def narrow(self) -> Floats:
        """The nearest numbers in float32."""
        kind = self._typed(ir.FloatType())
        return Floats(self.builder, self.builder.fptrunc(self.value, kind))


class Unsigned(Integers):
    """Integers without a sign; they wrap likewise."""

    __slots__ = ()

    def __rshift__(self, other: int) -> Self:
        """Shifted to the right; zeros come in."""
        return self._apply("lshr", other)

    def _compare(self, sign: str, other: Self | int) -> Mask:
        other = self.like(other)
        return Mask(self.builder, self.builder.icmp_unsigned(sign, self.value, other.value))


def kind_of(dtype: str) -> type[Floats | Integers | Mask]:
    """The lanes that hold elements of a dtype."""
    if dtype == "bool":
        return Mask
    if dtype.startswith("float"):
        return Floats
    return Unsigned if dtype.startswith("uint") else Integers


def _intrinsic(name: str, *args: Floats) -> Floats:
    first = args[0]
    kind = first.value.type
    suffix = f"f{first.format.bits}" if first.n == 1 else f"v{first.n}f{first.format.bits}"
    full = f"llvm.{name}.{suffix}"
    module = first.builder.module
    function = module.globals.get(full)
    if function is None:
        function = ir.Function(module, ir.FunctionType(kind, [kind] * len(args)), full)
    return Floats(first.builder, first.builder.call(function, [a.value for a in args]))


def fma(x: Floats, y: Floats | float, z: Floats | float) -> Floats:
    """x·y + z, rounded once."""
    return _intrinsic("fma", x, x.like(y), x.like(z))


def sqrt(x: Floats) -> Floats:
    """√x, correctly rounded; √−0 = −0."""
    return _intrinsic("sqrt", x)


def round_down(x: Floats) -> Floats:
    """The largest integer ≤ x."""
    return _intrinsic("floor", x)


def with_sign(x: Floats, sign: Floats) -> Floats:
    """|x| with the sign bit of the second, NaNs and zeros included."""
    return _intrinsic("copysign", x, sign)


def select(mask: Mask, x: Value, y: Value | float) -> Value:
    """x where the mask is true, else y; no arithmetic, so neither touches the other."""
    return type(x)(x.builder, x.builder.select(mask.value, x.value, x.like(y).value))


def choose_if_any(
    mask: Mask, rare: Callable[[], Sequence[Any]], usual: Sequence[Any]
) -> tuple[Any, ...]:
    """rare() where the mask is true, else the usual values; skipped where no lane is true."""
    builder = mask.builder
    before = builder.block
    with builder.if_then(mask.any(), likely=False):
        chosen = [select(mask, x, y) for x, y in zip(rare(), usual, strict=True)]
        inside = builder.block
    joined = []
    for x, y in zip(chosen, usual, strict=True):
        phi = builder.phi(x.value.type)
        phi.add_incoming(x.value, inside)
        phi.add_incoming(y.value, before)
        joined.append(type(x)(builder, phi))
    return tuple(joined)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of constants, under a name in the module that looks them up."""

    name: str
    rows: tuple[tuple[float, ...], ...]

    def look_up(self, row: Integers, like: Floats) -> list[Floats]:
        """The columns of a row in every lane, as numbers of a format; the first row before it."""
        builder = row.builder
        width = len(self.rows[0])
        element = like.format.ir_float
        kind = ir.ArrayType(element, width * len(self.rows))
        module = builder.module
        table = module.globals.get(self.name)
        if table is None:
            table = ir.GlobalVariable(module, kind, self.name)
            table.linkage, table.global_constant = "internal", True
            table.initializer = ir.Constant(kind, [c for r in self.rows for c in r])
        start = select(row < 0, row.like(0), row)
        columns = [like.value] * width
        for lane in range(like.n):
            place = ir.Constant(ir.IntType(32), lane)
            first = start.value if like.n == 1 else builder.extract_element(start.value, place)
            first = builder.mul(first, ir.Constant(first.type, width))
            for j in range(width):
                index = builder.add(first, ir.Constant(first.type, j))
                zero = ir.Constant(first.type, 0)
                at = builder.gep(table, [zero, index], inbounds=True)
                word = builder.load(at)
                columns[j] = (
                    word if like.n == 1 else builder.insert_element(columns[j], word, place)
                )
        return [Floats(builder, column) for column in columns]


def at_most(bound: float, x: Floats) -> Floats:
    """bound where x > bound, else x; NaN stays NaN. One instruction on x86-64."""
    return select(x.like(bound) < x, x.like(bound), x)


def at_least(bound: float, x: Floats) -> Floats:
    """bound where x < bound, else x; NaN stays NaN. One instruction on x86-64."""
    return select(x.like(bound) > x, x.like(bound), x)


def nearest_integer(x: Floats, factor: float = 1.0) -> tuple[Floats, Integers]:
    """The integer nearest to x·factor, ties to even, as a number (never −0) and as an integer.

    |x·factor| ≤ 2^(digits − 2). For other x both are arbitrary; the number is NaN for NaN.
    """
    whole = x.format.whole
    moved = fma(x, factor, whole)
    return moved - whole, moved.bits() - x.format.pattern(whole)


def polynomial(x: Floats, coefficients: Sequence[float]) -> Floats:
    """c₀ + c₁x + c₂x² + …, by Horner's rule."""
    *rest, last = coefficients
    total = x.like(last)
    for c in reversed(rest):
        total = fma(total, x, c)
    return total
