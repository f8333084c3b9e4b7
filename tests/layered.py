"""Networks that have every kind of layer between them."""

from __future__ import annotations

from isograd.nn import (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    Repeat,
    Residual,
    RMSNorm,
    Scale,
)

LAYERS = {
    "relu": (Repeat(3, (Dense(33), Activation("relu"))), Dense(10)),
    "tanh": (Repeat(3, (Dense(16), Activation("tanh"))), Dense(10)),
    "norms": (Dense(20), LayerNorm(), Activation("gelu"), Dense(20), RMSNorm(), Dense(10)),
    # Without biases: their gradient through a batch normalisation is all rounding.
    "batch norm, dropout": (
        Dense(20, bias=False),
        BatchNorm(),
        Activation("silu"),
        Dropout(0.3),
        Dense(10),
    ),
    "residual": (Dense(16), Residual((Dense(16), Activation("elu"), Dense(16))), Dense(10)),
    "learned numbers": (Dense(16), Activation("prelu"), Scale(0.5, learned=True), Dense(10)),
}
