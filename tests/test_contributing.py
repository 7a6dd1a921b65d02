"""The examples of CONTRIBUTING.md run as written, in a process that has nothing of these tests."""

import json
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


RUN = """
import json, os, sys, traceback
for section, text in json.load(sys.stdin).items():
    os.mkdir(section)
    os.chdir(section)
    try:
        exec(compile(text, section, "exec"), {"__name__": "__main__"})
        print("done", section)
    except BaseException:
        traceback.print_exc()
    os.chdir("..")
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """All examples in one process, which imports once what they share; each in a folder of its own."""
    return subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(EXAMPLES),
        cwd=tmp_path_factory.mktemp("examples"),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("section", EXAMPLES)
def test_example_runs_and_checks_its_result(section, done):
    assert "assert " in EXAMPLES[section]
    assert f"done {section}\n" in done.stdout, done.stderr[-2000:]
