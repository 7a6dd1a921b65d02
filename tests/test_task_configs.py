"""Every task config loads, names a data set that exists or its own steps, and writes to a folder of its own."""

import dataclasses

import pytest

from covjax.comparison.config import CompareConfig
from covjax.jobs.cli import load_config
from covjax.sources import SOURCES
from covjax.tasks.configs import CONFIGS, titled
from tests.conftest import ROOT

FILES = sorted((ROOT / "configs" / "tasks").glob("*.py"))
HUB = sorted((ROOT / "configs" / "hub").glob("*.py"))


@pytest.mark.parametrize("path", FILES + HUB, ids=lambda path: path.stem)
def test_the_config_and_its_command(path):
    config = load_config(path, CompareConfig)
    text = path.read_text()
    assert f"python -m eval.compare --config configs/{path.parent.name}/{path.name}" in text
    assert config.output == f"runs/{path.stem}"
    assert config.source in SOURCES or (config.source == "" and "--data" in text)


def test_every_source_has_a_config_and_names_are_distinct():
    configs = [load_config(path, CompareConfig) for path in FILES + HUB]
    variants = ("mnase_", "spoken_digits_", "yeast_chipexo_")  # one config, other widths and other test speakers
    with_config = {config.source for config in configs} - {""}
    assert {name for name in SOURCES if not name.startswith(variants)} == {
        name for name in with_config if not name.startswith(variants)
    }
    assert len({config.name for config in configs}) == len(configs)


def test_a_title_names_the_encoder_that_is_used():
    config = CONFIGS["splice"]()
    assert titled(config) == config
    assert titled(dataclasses.replace(config, encoder="owner/yeast-lm")).name == "splice sites, yeast-lm"
    own = dataclasses.replace(config, encoder="yeast-lm", name="mine")
    assert titled(own) == own
