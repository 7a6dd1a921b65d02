"""The README's Python examples run as written."""

import re

import pytest

from tests.conftest import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_block_runs(number):
    names = {}
    exec(BLOCKS[number], names)
    assert names["features"].shape == (8, 64 * 65 // 2)
    assert bool((names["features"] == names["features"]).all())
    assert names["sigma"].shape == (64, 64)


def test_there_is_an_example():
    assert BLOCKS
