"""Derivatives: reverse and forward mode, of any order, in both graph modes, from one table.

Reverse mode records the function once and walks the equations backwards (Linnainmaa 1970;
Griewank & Walther 2008, ch. 3): each equation hands the cotangent of its output to its inputs by
the vjp of its primitive, and a variable that is used along several paths sums what arrives. Forward
mode carries a tangent beside each value. Both are loops over equations, so depth is no limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from isograd.engine.array import Array
from isograd.engine.dispatch import Handler, apply, spec_of
from isograd.engine.eager import Recording, record
from isograd.engine.functions import asarray, astype, reshape, stack, zeros_like
from isograd.engine.graph import ArraySpec, Var
from isograd.engine.ops import RULES, Op, Value
from isograd.engine.tree import LEAF, flatten, map_leaves, unflatten
from isograd.errors import GraphError, ShapeError

_Argnums = int | tuple[int, ...]


# --- reverse mode


def pull_back(
    recording: Recording, cotangents: Sequence[Value | None], wrt: Sequence[Var]
) -> list[Value | None]:
    """Cotangents of the variables `wrt`, given those of the outputs; None stands for zero."""
    graph, values = recording.graph, recording.values
    active = set(wrt)
    for eqn in graph.eqns:
        if eqn.output.spec.differentiable and any(v in active for v in eqn.inputs):
            active.add(eqn.output)
    sums: dict[Var, Value] = {}

    def accumulate(var: Var, cotangent: Value | None) -> None:
        if cotangent is not None and var in active:
            sums[var] = sums[var] + cotangent if var in sums else cotangent

    with np.errstate(all="ignore"):
        for var, cotangent in zip(graph.outputs, cotangents, strict=True):
            accumulate(var, cotangent)
        for eqn in reversed(graph.eqns):
            g = sums.pop(eqn.output, None)
            if g is None:
                continue
            vjp_rule = RULES[eqn.op].vjp
            args = tuple(values[v] for v in eqn.inputs)
            out = values[eqn.output]
            for i, var in enumerate(eqn.inputs):
                if var in active:
                    accumulate(var, vjp_rule(i, g, out, args, dict(eqn.params)))
    return [sums.get(v) for v in wrt]


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """The value of f, and its pullback v ↦ vᵀJ.

    Args:
        f: a function of arrays in nested containers.
        primals: the point, nested as f takes it; float32 or float64.

    Returns:
        `f(*primals)`, and a function from a cotangent (nested as the value) to the tuple of the
        cotangents of the primals. It may be called again and again.

    Raises:
        GraphError: if a primal holds integers.
        ShapeError: from the pullback, if the cotangent and the value differ.

    References:
        Griewank & Walther 2008, Evaluating Derivatives, ch. 3.
    """
    recording = record(f, [_point(p, i) for i, p in enumerate(primals)])
    graph = recording.graph

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        leaves, tree = flatten(cotangent)
        specs = [v.spec for v in graph.outputs]
        if tree != graph.out_tree or [spec_of(c).shape for c in leaves] != [s.shape for s in specs]:
            raise ShapeError(
                "a cotangent must have the nesting and the shapes of the value",
                came=", ".join(str(spec_of(c)) for c in leaves),
                where=f"the value is {', '.join(map(str, specs))}",
            )
        seeds = [astype(c, s.dtype) for c, s in zip(leaves, specs, strict=True)]
        pulled = pull_back(recording, seeds, graph.inputs)
        out: tuple[Any, ...] = unflatten(graph.in_tree, _or_zeros(pulled, graph.inputs))
        return out

    return unflatten(graph.out_tree, recording.outputs), pullback


def value_and_grad(
    f: Callable[..., Any], argnums: _Argnums = 0, *, has_aux: bool = False
) -> Callable[..., tuple[Any, Any]]:
    """The function that gives both f and its gradient.

    Args:
        f: a function of arrays whose value is a scalar (shape ()); with `has_aux`, a pair of that
            and anything made of arrays.
        argnums: which arguments to differentiate; each may nest arrays.
        has_aux: whether f returns something beside the scalar.

    Returns:
        A function with the arguments of f. It returns the value (with `has_aux` the pair) and the
        gradient, nested as the argument (a tuple of them if `argnums` is one). Its arrays may share
        memory, as those of x + y do: do not change them in place.

    Raises:
        ShapeError: if the value is no scalar of floating point.
        GraphError: if an argument to differentiate holds integers, argnums does not exist, or with
            `has_aux` f returns no pair.
    """
    nums = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def wrapped(*args: Any) -> tuple[Any, Any]:
        chosen = _chosen(args, nums)

        def of_chosen(*parts: Any) -> Any:
            full = list(args)
            for n, part in zip(nums, parts, strict=True):
                full[n] = part
            out = f(*full)
            if has_aux and not (isinstance(out, tuple) and len(out) == 2):
                raise GraphError(
                    "with has_aux a function must return a pair: the scalar, and anything else",
                    came=type(out).__name__,
                )
            return out if has_aux else (out,)

        recording = record(of_chosen, chosen)
        graph = recording.graph
        if graph.out_tree.children[0] != LEAF or not _is_scalar(graph.outputs[0].spec):
            raise ShapeError(
                "a gradient must be that of a scalar function of floating point",
                came=", ".join(str(v.spec) for v in graph.outputs) or "nothing",
                fix="sum the value, use has_aux for what comes beside it, or isograd.vjp or "
                "isograd.jacobian for more than a scalar",
            )
        seed = np.ones((), graph.outputs[0].spec.dtype)
        rest = [None] * (len(graph.outputs) - 1)
        pulled = pull_back(recording, [seed, *rest], graph.inputs)
        grads = unflatten(graph.in_tree, _or_zeros(pulled, graph.inputs))
        value = unflatten(graph.out_tree, recording.outputs)
        return (
            value if has_aux else value[0],
            grads[0] if isinstance(argnums, int) else grads,
        )

    return wrapped


def grad(
    f: Callable[..., Any], argnums: _Argnums = 0, *, has_aux: bool = False
) -> Callable[..., Any]:
    """The gradient of a scalar function; see `value_and_grad`.

    Returns:
        A function with the arguments of f that returns the gradient; with `has_aux`, the gradient
        and what f returned beside the scalar.

    Example:
        >>> import isograd
        >>> float(isograd.grad(lambda x: x**3)(2.0))
        12.0
    """
    both = value_and_grad(f, argnums, has_aux=has_aux)

    def wrapped(*args: Any) -> Any:
        value, gradient = both(*args)
        return (gradient, value[1]) if has_aux else gradient

    return wrapped


def _is_scalar(spec: ArraySpec) -> bool:
    return spec.shape == () and spec.differentiable


def _chosen(args: tuple[Any, ...], nums: tuple[int, ...]) -> list[Any]:
    for n in nums:
        if not -len(args) <= n < len(args):
            raise GraphError(
                "argnums must name an argument that is given", came=f"{n} of {len(args)} arguments"
            )
    if len({n % len(args) for n in nums}) < len(nums):
        raise GraphError("argnums must name an argument once", came=str(nums))
    return [_point(args[n], n) for n in nums]


def _point(arg: Any, n: int) -> Any:
    """Argument n as a point to differentiate at: floating-point arrays."""

    def floating(leaf: Any) -> Value:
        leaf = asarray(float(leaf) if type(leaf) is int else leaf)
        if not spec_of(leaf).differentiable:
            raise GraphError(
                "derivatives are taken by floating-point arrays",
                came=f"{spec_of(leaf)} in argument {n}",
                fix="pass float32 or float64, or leave it out: close over it, or differentiate by "
                "another argument (argnums)",
            )
        return leaf

    return map_leaves(floating, arg)


def _or_zeros(cotangents: Sequence[Value | None], like: Sequence[Var]) -> list[Value]:
    return [
        zeros_like(var.spec) if c is None else c for c, var in zip(cotangents, like, strict=True)
    ]


# --- forward mode


class Dual(Array):
    """A value and its tangent (None stands for zero)."""

    __slots__ = ("primal", "tangent")

    def __init__(self, handler: Handler, primal: Value, tangent: Value | None) -> None:
        super().__init__(handler, spec_of(primal))
        self.primal = primal
        self.tangent = tangent


class _Forward(Handler):
    def split(self, x: Value) -> tuple[Value, Value | None]:
        return (x.primal, x.tangent) if isinstance(x, Dual) and x.handler is self else (x, None)

    def process(self, op: Op, args: tuple[Value, ...], params: dict[str, Any]) -> Value:
        pairs = [self.split(a) for a in args]
        primals = tuple(p for p, _ in pairs)
        out = apply(op, *primals, **params)
        tangent: Value | None = None
        if spec_of(out).differentiable:
            for i, (_, t) in enumerate(pairs):
                term = None if t is None else RULES[op].jvp(i, t, out, primals, params)
                if term is not None:
                    tangent = term if tangent is None else tangent + term
        return Dual(self, out, tangent)


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """The value of f, and its derivative along the tangents, J t, in one forward sweep.

    Args:
        f: a function of arrays in nested containers.
        primals: the point, one entry per argument.
        tangents: the direction, nested and shaped as the primals.

    Returns:
        `f(*primals)` and J t, nested alike.

    Raises:
        ShapeError: if tangents and primals differ.
        GraphError: if a primal holds integers.
    """
    points, in_tree = flatten(tuple(_point(p, i) for i, p in enumerate(primals)))
    directions, tree = flatten(tuple(tangents))
    if tree != in_tree or [spec_of(p).shape for p in points] != [
        spec_of(t).shape for t in directions
    ]:
        raise ShapeError(
            "tangents must have the nesting and the shapes of the primals",
            came=", ".join(str(spec_of(t)) for t in directions),
            where=f"the primals are {', '.join(str(spec_of(p)) for p in points)}",
        )
    forward = _Forward()
    duals = [
        Dual(forward, p, astype(t, spec_of(p).dtype))
        for p, t in zip(points, directions, strict=True)
    ]
    with np.errstate(all="ignore"):
        result = f(*unflatten(in_tree, duals))
    outs, out_tree = flatten(result)
    pairs = [forward.split(asarray(o)) for o in outs]
    values = [p for p, _ in pairs]
    derivative = [zeros_like(p) if t is None else t for p, t in pairs]
    return unflatten(out_tree, values), unflatten(out_tree, derivative)


# --- both


def hvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The Hessian of a scalar function times a vector, forward over reverse.

    Costs a small multiple of one gradient and never forms the Hessian.

    Args:
        f: a scalar function of arrays.
        primals: the point, one entry per argument.
        tangents: the vector, nested and shaped as the primals.

    Returns:
        H t: nested as the argument if f takes one, else a tuple with one entry per argument.

    References:
        Pearlmutter 1994, Fast exact multiplication by the Hessian.
    """
    argnums: _Argnums = 0 if len(primals) == 1 else tuple(range(len(primals)))
    return jvp(grad(f, argnums), primals, tangents)[1]


def jacobian(f: Callable[[Any], Any], *, mode: str = "auto") -> Callable[[Any], Value]:
    """The matrix of first derivatives ∂fᵢ/∂xⱼ of a function of one array.

    Args:
        f: from one array to one array.
        mode: "forward" (one sweep per input), "reverse" (one per output), or "auto" (the fewer).

    Returns:
        A function from x to an array of shape f(x).shape + x.shape.
    """
    if mode not in ("auto", "forward", "reverse"):
        raise GraphError("mode must be 'auto', 'forward' or 'reverse'", came=repr(mode))

    def wrapped(x: Any) -> Value:
        x = _one_array(_point(x, 0), "argument")
        value, pullback = vjp(f, x)
        inputs, outputs = spec_of(x), spec_of(_one_array(value, "value"))
        if mode == "reverse" or (mode == "auto" and outputs.size <= inputs.size):
            rows = [reshape(pullback(e)[0], (inputs.size,)) for e in _basis(outputs)]
            flat = stack(rows, axis=0) if rows else np.zeros((0, inputs.size), inputs.dtype)
        else:
            columns = [reshape(jvp(f, (x,), (e,))[1], (outputs.size,)) for e in _basis(inputs)]
            flat = stack(columns, axis=1) if columns else np.zeros((outputs.size, 0), outputs.dtype)
        return reshape(flat, (*outputs.shape, *inputs.shape))

    return wrapped


def _one_array(x: Any, what: str) -> Value:
    if flatten(x)[1] != LEAF:
        raise GraphError(
            "a Jacobian must be that of a function from one array to one array",
            came=f"{type(x).__name__} as its {what}",
            fix="concatenate the parts, or use isograd.vjp or isograd.jvp",
        )
    return x


def _basis(spec: ArraySpec) -> list[Value]:
    eye = np.eye(spec.size, dtype=spec.dtype)
    return [e.reshape(spec.shape) for e in eye]


__all__ = ["grad", "hvp", "jacobian", "jvp", "pull_back", "value_and_grad", "vjp"]
