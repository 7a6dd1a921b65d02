"""The examples of CONTRIBUTING.md run as written, each in a process and a folder of its own."""

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SECTIONS = re.split(r"^## ", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.M)
EXAMPLES = {
    section.splitlines()[0]: blocks[0]
    for section in SECTIONS
    if (blocks := re.findall(r"```python\n(.*?)```", section, re.S))
}


def test_every_kind_of_part_has_an_example():
    assert list(EXAMPLES) == ["A pooler", "A recipe", "An encoder", "An autoencoder", "A task"]


@pytest.mark.parametrize("section", EXAMPLES)
def test_example_runs_and_checks_its_result(section, tmp_path):
    assert "assert " in EXAMPLES[section]
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLES[section]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
