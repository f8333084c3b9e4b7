"""Update rules as pure (init, update) pairs, in the engine's operations."""

from isograd.optim.rules import Optimiser, chain, clip_by_global_norm, clip_by_value, optimiser

__all__ = ["Optimiser", "chain", "clip_by_global_norm", "clip_by_value", "optimiser"]
