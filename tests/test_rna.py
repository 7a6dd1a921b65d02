"""Kinds of loops in dot-bracket structures: by hand, against a search from every base, and what is refused."""

import numpy as np
import pytest

from covjax.data.rna import KINDS, loop_kinds
from covjax.errors import InputError


@pytest.mark.parametrize(
    ("structure", "kinds"),
    [
        ("....", "EEEE"),
        ("((...))", "SSHHHSS"),
        (".((...)).", "ESSHHHSSE"),
        ("((.((...))))", "SSBSSHHHSSSS"),
        ("((((...)).))", "SSSSHHHSSBSS"),
        ("((..((...)).))", "SSIISSHHHSSISS"),
        ("((.(...).(...)..))", "SSMSHHHSMSHHHSMMSS"),
        ("((...)).((...))", "SSHHHSSESSHHHSS"),
        ("(())", "SSSS"),
    ],
)
def test_by_hand(structure, kinds):
    assert loop_kinds(structure) == kinds


def pairs_around(structure):
    """The opening place of the innermost pair around every base, -1 for none, by a plain stack."""
    around, stack = [], []
    for i, letter in enumerate(structure):
        if letter == ")":
            stack.pop()
        around.append(stack[-1] if stack else -1)
        if letter == "(":
            stack.append(i)
    return around


def kind_of(structure, i):
    around = pairs_around(structure)
    if structure[i] != ".":
        return "S"
    if around[i] < 0:
        return "E"
    inner = [j for j in range(len(structure)) if structure[j] == "(" and around[j] == around[i]]
    bases = [j for j in range(len(structure)) if structure[j] == "." and around[j] == around[i]]
    if len(inner) == 1:
        return "I" if len({j < inner[0] for j in bases}) == 2 else "B"
    return "M" if inner else "H"


def test_random_structures(rng):
    for _ in range(60):
        letters, depth = [], 0
        for _ in range(60):
            letter = rng.choice(list("(.)."))
            if letter == ")" and not depth:
                letter = "."
            depth += (letter == "(") - (letter == ")")
            letters.append(letter)
        structure = "".join(letters) + ")" * depth
        assert loop_kinds(structure) == "".join(kind_of(structure, i) for i in range(len(structure)))
        assert set(loop_kinds(structure)) <= set(KINDS)


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ("", "structure: it is empty"),
        ("(.", r"structure: '\(' at position 1 is never closed"),
        ("(()", r"structure: '\(' at position 1 is never closed"),
        (".)", r"structure: '\)' at position 2 closes no pair"),
        ("([)]", r"structure: '\[' at position 2; allowed: \. \( \)"),
    ],
)
def test_what_is_refused(structure, message):
    with pytest.raises(InputError, match=message):
        loop_kinds(structure)


def test_shares_sum_to_one():
    kinds = loop_kinds("..((..((...)).))..")
    np.testing.assert_allclose(sum(kinds.count(letter) for letter in KINDS) / len(kinds), 1)
