"""Annotations of every package are checked while tests run, and a test may ask for a user's view."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from covjax.autoencoders.stability import procrustes_distance
from covjax.data.store import Text, encode_tokens
from covjax.errors import InputError


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
