"""Odd records: counted, the first three named, and refused where they are many."""

import pytest

from covjax.data.text import Skipped
from covjax.errors import InputError


def close(odd, sound):
    notes = []
    skipped = Skipped("x.gaf", "annotations")
    for i in range(odd):
        skipped.add(f"reason {i}", i + 7)
    skipped.close(sound, notes.append)
    return notes


def test_a_summary_counts_and_names_the_first_three():
    assert close(0, 0) == []
    assert close(1, 1) == ["x.gaf: left out 1 of 2 annotations: line 7: reason 0"]
    assert close(5, 5000) == [
        "x.gaf: left out 5 of 5,005 annotations: line 7: reason 0; line 8: reason 1; line 9: reason 2"
    ]


@pytest.mark.parametrize(("odd", "sound"), [(1, 1), (10, 10), (10, 900), (100, 9900)])
def test_few_are_allowed(odd, sound):
    assert len(close(odd, sound)) == 1


@pytest.mark.parametrize(("odd", "sound"), [(1, 0), (2, 1), (11, 11), (11, 900), (101, 9899)])
def test_many_are_refused(odd, sound):
    with pytest.raises(InputError, match=rf"x.gaf: line 7: reason 0 \({odd} of {odd + sound:,} annotations are odd\)"):
        close(odd, sound)
