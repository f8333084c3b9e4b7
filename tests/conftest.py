"""What all tests share: a seeded generator, hypothesis without clock or chance, a cache of code."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("isograd", deadline=None, derandomize=True)
settings.load_profile("isograd")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)


@pytest.fixture(scope="session", autouse=True)
def cache_of_code() -> Iterator[None]:
    """Native code that tests make is not left among the user's; processes they start share it."""
    if "ISOGRAD_CACHE" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ISOGRAD_CACHE"] = folder
        yield
        del os.environ["ISOGRAD_CACHE"]
