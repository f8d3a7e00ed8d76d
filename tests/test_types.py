"""Every public function says what it takes and what it gives, and says so truly."""

import inspect

import jax.numpy as jnp
import pytest
from jaxtyping import Float

import bespoke_jax as bj
from bespoke_jax.types import Array
from tests import typechecked

FUNCTIONS = {f"{space.__name__}.{name}": function for space, name, function in typechecked.public_functions()}
FUNCTIONS |= {
    f"{kind.__name__}.{name}": getattr(kind, name) for kind, names in typechecked.METHODS.items() for name in names
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_all_arguments_and_results_are_annotated(name):
    signature = inspect.signature(FUNCTIONS[name])
    missing = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name != "self"]
    assert not missing and signature.return_annotation is not signature.empty, missing


def test_a_wrong_annotation_is_found():
    def double(x: Float[Array, "n n"]) -> Float[Array, "n n"]:
        return 2 * x

    def flat(x: Float[Array, "n n"]) -> Float[Array, "n n"]:
        return x.reshape(-1)

    def refuses(x: Float[Array, "n n"]) -> None:
        raise ValueError(f"x: wanted a square, got {x.shape}.")

    assert typechecked.checked(double)(jnp.eye(2)).shape == (2, 2)
    with pytest.raises(AssertionError, match="annotations refuse a call that it serves"):
        typechecked.checked(double)(jnp.ones((2, 3)))
    with pytest.raises(AssertionError, match="annotations refuse a call that it serves"):
        typechecked.checked(flat)(jnp.eye(2))
    with pytest.raises(ValueError, match="x: wanted a square"):
        typechecked.checked(refuses)(jnp.ones((2, 3)))


def test_the_checked_functions_are_in_place():
    for function in (bj.solve, bj.fit, bj.classic.unipc, bj.losses.rmse, bj.Flow.noise):
        assert function.__wrapped__.__module__.startswith("bespoke_jax")
