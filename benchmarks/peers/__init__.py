"""Who is timed: for each peer the module that builds it, and the settings of which the best counts.

A module has `make(problem, setting)`, which gives the `Steps` to time, and raises `Unavailable`
where its library is missing. Importing the module imports the library.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """A way to take a training step.

    Attributes:
        title: what it is called in the tables.
        module: of this package.
        settings: to try.
    """

    title: str
    module: str
    settings: tuple[str, ...]


PEERS = {
    "native": Peer("isograd, native", "own", ("native",)),
    "numpy": Peer("isograd, NumPy", "own", ("numpy",)),
    "torch": Peer("PyTorch, eager", "torch_eager", ("fused", "foreach")),
    "compile": Peer("PyTorch, torch.compile", "torch_compiled", ("model", "model+adam", "cpp")),
    "jit": Peer("JAX, jit per step", "jax_steps", ("jit, tree", "jit, vector")),
    "scan": Peer("JAX, lax.scan over steps", "jax_steps", ("scan, tree", "scan, vector")),
    "sklearn": Peer("scikit-learn, MLP", "sklearn_mlp", ("partial_fit",)),
    "products": Peer("NumPy, the products alone", "products_alone", ("matmul",)),
}
"""In the order of the tables."""

TELEMETRY = {
    f"{backend}+{kind}": Peer(f"{PEERS[backend].title}, {text}", "own", (f"{backend}+{kind}",))
    for backend, kinds in {
        "native": {
            "cadence": "as it comes",
            "moments": "moments of every site at every step",
            "summaries": "summaries of every site at every step",
        },
        "numpy": {"cadence": "as it comes", "summaries": "summaries of every site at every step"},
    }.items()
    for kind, text in kinds.items()
}
"""The same steps of isograd with telemetry."""
