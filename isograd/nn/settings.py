"""Settings of a spec by name: a key path as in TOML, or a quantity of theory.

`network.layers.0.times` and `optimiser.lr` are keys; `depth`, `sigma_w`, `sigma_w2` and `sigma_b2`
are quantities, and say how the spec is edited to have them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias, get_args, get_origin

import msgspec
from msgspec import Struct
from msgspec.structs import fields, replace

from isograd.errors import SpecError
from isograd.nn.activations import phi
from isograd.nn.checks import shown
from isograd.nn.initialisers import scale
from isograd.nn.layers import each
from isograd.nn.places import elementwise
from isograd.nn.spec import Activation, Dense, Repeat, Spec, VarianceScaling
from isograd.nn.toml_errors import explain

Value: TypeAlias = bool | int | float | str
Edit: TypeAlias = Callable[[Spec, Value], Spec]


@dataclass(frozen=True)
class Setting:
    """One setting of a spec.

    Attributes:
        name: its name, or its key path with the indices of lists as keys.
        whole: whether it takes whole numbers.
        edit: a spec and a value to the spec that has it.
        note: what the edit does beside setting the value; empty if nothing.
    """

    name: str
    whole: bool
    edit: Edit
    note: str = ""


@dataclass(frozen=True)
class Block:
    """The one repeat block of a network's layers, to which depth is due.

    Attributes:
        index: of the block among the layers.
        repeat: the block.
        inside, outside: dense layers in a copy of it, and beside it.
    """

    index: int
    repeat: Repeat
    inside: int
    outside: int

    def dense(self) -> Dense:
        """The first dense layer in the block."""
        return next(layer for _, layer in each(self.repeat.layers) if isinstance(layer, Dense))

    def activation(self) -> Activation:
        """The first elementwise activation in the block, or the identity."""
        layers = (layer for _, layer in each(self.repeat.layers))
        acts = (x for x in layers if isinstance(x, Activation) and elementwise(x))
        return next(acts, Activation("identity"))


def setting(spec: Spec, name: str, *, where: str = "") -> Setting:
    """A setting of a spec by its name.

    Args:
        spec: whose it is.
        name: a key path, or "depth", "sigma_w", "sigma_w2", "sigma_b2".
        where: what to call the spec in errors, usually the path of its file.

    Raises:
        SpecError: the spec has no such setting; the error names the nearest.
    """
    if name == "depth":
        block = depth_block(spec, where=where)
        return Setting(name, True, lambda s, v: _with_depth(s, v, block, where))
    if name in VARIANCES:
        return _variance(spec, name, where)
    path, whole = _resolve(spec, name, where)
    return Setting(".".join(path), whole, lambda s, v: _with_key(s, path, v, where))


def depth_block(spec: Spec, *, where: str = "") -> Block:
    """The one block whose repetition makes the depth.

    Raises:
        SpecError: there is no repeat block among the layers, or more than one, or it holds no
            dense layer.
    """
    layers = spec.network.layers
    found = [i for i, layer in enumerate(layers) if isinstance(layer, Repeat)]
    if len(found) != 1:
        names = [f"network.layers.{i}.times" for i in found]
        raise SpecError(
            "depth needs exactly one repeat block among the layers",
            came=f"{len(found)} of them" if found else "none",
            where=_at(where, "network.layers"),
            fix="name one of them: " + ", ".join(names)
            if found
            else 'put the hidden layers into { kind = "repeat", times = …, layers = [ … ] }',
        )
    (index,) = found
    repeat = layers[index]
    assert isinstance(repeat, Repeat)
    inside, all_of_them = _dense(repeat.layers), _dense(layers)
    if not inside:
        raise SpecError(
            "depth counts dense layers, and the repeat block must hold one",
            came="a block without dense layers",
            where=_at(where, f"network.layers[{index}]"),
            fix=f"name network.layers.{index}.times to set its copies",
        )
    return Block(index, repeat, inside, all_of_them - inside * repeat.times)


def _dense(layers: tuple[Any, ...]) -> int:
    """How many dense layers there are, repeats counted but not written out."""
    count, stack = 0, [(layer, 1) for layer in layers]
    while stack:
        layer, times = stack.pop()
        times *= layer.times if isinstance(layer, Repeat) else 1
        count += times * isinstance(layer, Dense)
        stack.extend((inner, times) for inner in getattr(layer, "layers", ()))
    return count


def _with_depth(spec: Spec, value: Value, block: Block, where: str) -> Spec:
    whole = isinstance(value, int) and not isinstance(value, bool)
    times, rest = divmod(int(value) - block.outside, block.inside) if whole else (0, 0)
    if not whole or rest or times < 1:
        least = block.outside + block.inside
        form = f"{block.outside} + {block.inside}·times" if block.inside > 1 else ""
        raise SpecError(
            f"depth must be a whole number of at least {least}"
            + (f" of the form {form}" if form else ""),
            came=f"depth = {shown(value)}",
            where=_at(where, f"network.layers[{block.index}]"),
            fix=f"{block.outside} dense layers stand outside the repeat block and {block.inside} "
            "in each of its copies",
        )
    return _with_key(spec, ("network", "layers", str(block.index), "times"), times, where)


# Variances of the initialiser -------------------------------------------------------------------

VARIANCES: dict[str, tuple[str, Callable[[float], float]]] = {
    "sigma_w": ("sigma_w2", lambda x: x * x),
    "sigma_w2": ("sigma_w2", lambda x: x),
    "sigma_b2": ("sigma_b2", lambda x: x),
}
"""Settings of the network's initialiser: the key of variance_scaling, and its value."""


def _variance(spec: Spec, name: str, where: str) -> Setting:
    """σ_w or σ_b of the network's initialiser, which may have to become variance_scaling first."""
    network = spec.network
    dense = [(path, x) for path, x in each(network.layers) if isinstance(x, Dense)]
    own = [path for path, layer in dense if layer.init is not None]
    if len(own) == len(dense):
        raise SpecError(
            f"{name} is set through the network's initialiser, which some layer must take",
            came="layers that all have their own",
            where=_at(where, "network.layers"),
            fix=f"name that of a layer: {_dotted(own[0])}.init.sigma_w2",
        )
    as_variances = _as_variances(spec, name, where)
    key, to_variance = VARIANCES[name]

    def edit(s: Spec, value: Value) -> Spec:
        if isinstance(value, bool | str) or value < 0:
            raise SpecError(
                f"{name} must be a number of at least 0",
                came=f"{name} = {shown(value)}",
                where=_at(where, f"network.init.{key}"),
                fix="give a number of at least 0",
            )
        init = s.network.init
        if not isinstance(init, VarianceScaling):
            s = replace(s, network=replace(s.network, init=as_variances))
        return _with_key(s, ("network", "init", key), to_variance(value), where)

    notes = []
    if not isinstance(network.init, VarianceScaling):
        kept = f"sigma_b2 = {as_variances.sigma_b2:.6g}"
        if key == "sigma_b2":
            kept = f"sigma_w2 = {as_variances.sigma_w2:.6g}"
        kind = network.init.__struct_config__.tag
        notes.append(f'init "{kind}" becomes "variance_scaling" with {kept}')
    if own:
        notes.append(f"layers with an initialiser of their own keep it ({_dotted(own[0])})")
    return Setting(name, False, edit, "; ".join(notes))


def _as_variances(spec: Spec, name: str, where: str) -> VarianceScaling:
    """The network's initialiser as variance_scaling, of the variances that it gives a hidden layer.

    Raises:
        SpecError: it is not random, or scales by the data.
    """
    init = spec.network.init
    if isinstance(init, VarianceScaling):
        return init
    layers = [layer for _, layer in each(spec.network.layers)]
    dense = next(x for x in layers if isinstance(x, Dense) and x.init is None)
    acts = (x for x in layers if isinstance(x, Activation) and elementwise(x))
    act = next(acts, Activation("identity"))
    law = scale(init, phi(act), dense.units, dense.units, bias=dense.bias)
    if law is None:
        raise SpecError(
            f"{name} needs an initialiser that draws weights of a known variance",
            came=f'init = {{ kind = "{init.__struct_config__.tag}" }}',
            where=_at(where, "network.init"),
            fix='take init = { kind = "variance_scaling" }',
        )
    named = {"uniform": "uniform", "orthogonal": "orthogonal"}
    tag = str(init.__struct_config__.tag)
    distribution: Any = named.get(tag) or getattr(init, "distribution", "normal")
    return VarianceScaling(law.sigma_w2, law.sigma_b2, distribution)


# Key paths --------------------------------------------------------------------------------------


def _resolve(spec: Spec, name: str, where: str) -> tuple[tuple[str, ...], bool]:
    """The keys of a path to a single value, and whether that is a whole number."""
    path, values = re.sub(r"\[(\d+)\]", r".\1", name), _values(spec)
    if path in values:
        return tuple(path.split(".")), values[path]
    key = path.rpartition(".")[2]
    if below := [known for known in values if known.startswith(path + ".")]:
        must, fix = "a setting must be a single value", "name one of " + ", ".join(below)
    else:
        must, fix = "a setting must be a key of the spec", _nearest(path, values)
        if key in VARIANCES:
            fix = f"name {key} by itself: it is set through the initialiser"
        elif table := _left_out(spec, path):
            fix = f"add the table [{table}] to the spec, which leaves it out"
    raise SpecError(must, came=shown(name), where=where, fix=fix)


def _left_out(spec: Spec, path: str) -> str:
    """The table of a path that the spec leaves out; empty if it has them all, or they are none."""
    node: Any = spec
    keys = path.split(".")
    for number, key in enumerate(keys[:-1], start=1):
        node = getattr(node, key, path)
        if node is None:
            return ".".join(keys[:number])
    return ""


def _nearest(path: str, values: Iterable[str]) -> str:
    known = [*values, "depth", *VARIANCES]
    close = get_close_matches(path, known, n=3, cutoff=0.6)
    if not close:
        return f"name {', '.join(['depth', *VARIANCES])}, or a key such as optimiser.lr"
    return f"did you mean {' or '.join(map(repr, close))}?"


def _values(spec: Spec) -> dict[str, bool]:
    """Every path to a single value in a spec, and whether that takes whole numbers."""
    found: dict[str, bool] = {}
    stack: list[tuple[str, Any, Any]] = [("", spec, None)]
    while stack:
        path, node, kind = stack.pop()
        dot = path + "." if path else ""
        if isinstance(node, Struct):
            if node.__struct_config__.tag:
                found[f"{dot}kind"] = False
            inner = [(dot + f.name, getattr(node, f.name), f.type) for f in fields(node)]
            stack.extend(reversed(inner))
        elif isinstance(node, tuple):
            stack.extend((f"{dot}{i}", x, None) for i, x in reversed(list(enumerate(node))))
        elif types := {get_origin(t) or t for t in (kind, *get_args(kind))} & _SINGLE:
            found[path] = int in types
    return found


_SINGLE = {bool, int, float, str, Literal}


def _with_key(spec: Spec, path: tuple[str, ...], value: Value, where: str) -> Spec:
    """The spec with another value at a path.

    Raises:
        SpecError: the value is not one for it (where: key path).
    """
    raw = msgspec.to_builtins(spec)
    node = raw
    for key in path[:-1]:
        node = node[int(key)] if isinstance(node, list | tuple) else node[key]
    node[path[-1]] = value
    try:
        return msgspec.convert(raw, Spec)
    except msgspec.ValidationError as error:
        raise explain(error, raw, where) from None


def _at(where: str, path: str) -> str:
    return f"{where}: {path}" if where else path


def _dotted(path: str) -> str:
    return re.sub(r"\[(\d+)\]", r".\1", path)


__all__ = ["VARIANCES", "Block", "Setting", "Value", "depth_block", "setting"]
