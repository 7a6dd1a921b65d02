"""Annotations of every package are checked while tests run, and a test may ask for a user's view."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError, jaxtyped

from covjax.autoencoders.stability import procrustes_distance
from covjax.data.store import Text, encode_tokens
from covjax.errors import InputError
from tests.annotations import check


def test_a_false_argument_is_an_error_in_tests():
    with pytest.raises(TypeCheckError, match="parameter 'key'"):
        encode_tokens([np.zeros((2, 3), np.float32)], "text", 0, Text("AC", None))


def test_axes_of_one_name_are_of_one_length():
    with pytest.raises(TypeCheckError, match="parameter 'right'"):
        procrustes_distance(np.zeros((3, 2)), np.zeros((2, 3)))


@pytest.mark.usefixtures("unchecked")
def test_unchecked_reaches_the_message_of_covjax():
    with pytest.raises(InputError, match="one shape"):
        procrustes_distance(np.zeros((3, 2)), np.zeros((2, 3)))


def test_functions_of_one_signature_share_its_check_and_each_does_its_own_work():
    def define(answer):
        def inside(x: int) -> str:
            return answer

        return jaxtyped(inside, typechecker=check)

    first, second = define("a"), define(1)
    assert (first(0), define("b")(0)) == ("a", "b")
    with pytest.raises(TypeCheckError, match="return value"):
        second(0)
    for each in (first, define("c")):
        with pytest.raises(TypeCheckError, match="parameter 'x'"):
            each("0")
