"""What all tests share: a seeded generator, and hypothesis without clock or chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("isograd", deadline=None, derandomize=True)
settings.load_profile("isograd")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)
