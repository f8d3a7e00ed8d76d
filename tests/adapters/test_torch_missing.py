"""Without PyTorch the adapter can be imported, and says what is missing."""

import sys

import pytest

from bespoke_jax.adapters import torch as adapter


def test_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(ImportError, match="pip install torch"):
        adapter.flow(lambda t, x: x, (2,))
