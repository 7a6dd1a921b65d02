"""Every code block of the pages runs, or is checked in another way; pages are complete and say what the code says."""

import ast
import dataclasses
import importlib
import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

import covjax
from covjax import autoencoder_command
from covjax.comparison import command as compare_command
from covjax.comparison.config import CompareConfig
from covjax.dashboards.command import DashboardConfig
from covjax.embedding.pools import unfitted_pools, widths
from covjax.embedding_command import EmbedConfig, PredictConfig
from covjax.errors import InputError
from covjax.explanation.command import ExplainConfig
from covjax.extraction import command as extract_command
from covjax.extraction.config import ExtractConfig
from covjax.extras import EXTRAS
from covjax.jobs.cli import parse
from covjax.pooling import pooler_names
from covjax.recipes import get_recipe
from covjax.recipes.base import Pooled
from covjax.tasks.configs import CONFIGS, TASK_CONFIGS
from covjax.training import command as encoder_command
from covjax.training.config import AutoencoderConfig, EncoderConfig
from docs.notebooks import notebook
from eval import recipe_page
from tests.conftest import ROOT
from tests.doc_pages import Block, blocks, commands, outputs, pages, same, shows
from tests.test_unirep import needs_weights

BLOCKS = [block for page in pages() for block in blocks(page)]
# Languages of blocks, and those that nothing checks: output, files of other programs.
LANGUAGES = {"python", "sh", "text", "yaml", "dockerfile"}
# Pages whose Python blocks run as they are, and the test that does it.
RUN = {
    "README.md": "test_readme.py",
    "docs/python.md": "test_readme.py",
    "CONTRIBUTING.md": "test_contributing.py",
    "docs/write-your-own-autoencoder.md": "toy_autoencoders.py",
}
TUTORIALS = sorted(page for page in pages() if page.startswith("docs/tutorials/"))
# Python blocks that are only compiled, their imports and names of covjax looked up: page and first line → why.
COMPILED = {
    ("docs/activations.md", 'result = covjax.compare("labels.csv", activations="esm_tokens/", drop_first=1)'): (
        "files of the reader's; tutorials/pytorch.md runs the same"
    ),
    ("docs/autoencoder-sweeps.md", "from covjax.sweeps import train_sweep"): "a file of the reader's; test_sweep.py",
    ("docs/benchmark-metrics.md", "import time, numpy as np"): "a minute, and figures of one machine",
    ("docs/domains.md", "import numpy as np"): "recordings of the reader's; test_audio.py",
    ("docs/domains.md", "from covjax.encoders.speaker import load_speaker"): "weights of a package; test_speaker.py",
    ("docs/dashboard.md", "import covjax"): "an autoencoder of the reader's; test_dashboard.py",
    ("docs/explain.md", "import covjax"): "a model of the reader's; test_explanation.py",
    ("docs/explain.md", "import csv, gzip, os, random"): "data that are not part of covjax",
    ("docs/encoders.md", 'encoder = covjax.encoders.load("facebook/esm2_t6_8M_UR50D", dtype="float32")'): "weights",
    (
        "docs/encoders.md",
        'result = covjax.compare("my.csv", layers=[2, 4, -1])  # or layers="all"',
    ): ("a table of the reader's"),
    (
        "docs/encoders.md",
        "states, maps = encoder.apply(tokens, mask, (3, -1), attention=True)",
    ): "a Transformer's weights",
    ("docs/encoders.md", "import functools"): "a Transformer's weights",
    ("docs/encoders.md", "encoder = covjax.encoders.from_torch(model, tokenizer, layers=(-1,))"): "a PyTorch model",
    ("docs/encoders.md", "from sentence_transformers import SentenceTransformer"): "weights of the hub",
    (
        "docs/encoders.md",
        "from covjax.autoencoders import load, save_dictionary_learning, save_saelens",
    ): "a published folder",
    ("docs/python.md", 'result = covjax.compare("my.csv", output="runs/mine", encoder="unirep-64", resamples=1000)'): (
        "a table of the reader's; tutorials/proteins.md runs the same"
    ),
    ("docs/python.md", "from covjax.data.store import TokenStore, load_features"): "an extraction; test_extract.py",
    ("docs/retrieval.md", "from covjax.comparison.results import read_results"): "a run of a minute",
    ("docs/write-your-own-autoencoder.md", "from covjax.training.config import AutoencoderConfig"): (
        "a file and a store of the reader's; test_train_autoencoder.py"
    ),
}


def test_every_block_has_a_language_and_none_is_indented_text():
    assert {block.language for block in BLOCKS} <= LANGUAGES, [b[:4] for b in BLOCKS if b.language not in LANGUAGES]
    for page in pages():
        outside = re.sub(r"^( *)```.*?^\1```$", "", (ROOT / page).read_text(), flags=re.M | re.S)
        assert not re.search(r"^\n {4}(covjax|python|pip|import|from|result)\b", outside, re.M), page


def python_blocks() -> list[Block]:
    return [block for block in BLOCKS if block.language == "python"]


def test_every_python_block_runs_or_has_a_reason():
    listed = {(block.page, block.first) for block in python_blocks()} & set(COMPILED)
    assert listed == set(COMPILED)
    rest = [b for b in python_blocks() if b.page not in TUTORIALS and (b.page, b.first) not in COMPILED]
    assert {b.page for b in rest} <= set(RUN), [b[:2] for b in rest if b.page not in RUN]
    for page, test in RUN.items():
        assert (ROOT / "tests" / test).is_file()
        assert Path(page).name in (ROOT / "tests" / test).read_text(), page


@pytest.mark.parametrize(
    "block", [b for b in python_blocks() if (b.page, b.first) in COMPILED], ids=lambda b: b.first[:40]
)
def test_a_block_that_does_not_run_names_what_there_is(block):
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("covjax"):
            try:
                module = importlib.import_module(node.module or "")
            except InputError as error:
                pytest.skip(str(error))
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        elif isinstance(node, ast.Attribute) and re.fullmatch(r"covjax(\.\w+)+", ast.unparse(node)):
            value = covjax
            for name in ast.unparse(node).split(".")[1:]:
                value = getattr(value, name)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("covjax.compare", "AutoencoderConfig"):
            kind = CompareConfig if "compare" in ast.unparse(node.func) else AutoencoderConfig
            fields = {field.name for field in dataclasses.fields(kind)}
            assert {keyword.arg for keyword in node.keywords} <= fields | {"activations"}


COMMANDS = {  # command: settings, main options, further arguments of `parse`
    "compare": (CompareConfig, compare_command.MAIN_OPTIONS, {"built_in": CONFIGS, "switches": {"all": ""}}),
    "embed": (EmbedConfig, ("data",), {}),
    "predict": (PredictConfig, ("model", "data"), {"files": ("model", "data")}),
    "explain": (ExplainConfig, ("model", "data"), {"files": ("model", "data")}),
    "dashboard": (DashboardConfig, ("autoencoder", "store"), {"files": ("autoencoder",)}),
    "extract": (ExtractConfig, extract_command.MAIN_OPTIONS, {}),
    "train": (AutoencoderConfig, autoencoder_command.MAIN_OPTIONS, {}),
    "train encoder": (EncoderConfig, encoder_command.MAIN_OPTIONS, {}),
}
OLD = {
    "eval.compare": "compare",
    "train.extract": "extract",
    "train.autoencoder": "train",
    "train.encoder": "train encoder",
}


def lines() -> list[tuple[str, str]]:
    """Every command of the shell blocks, and every one in the text that begins with `covjax ` and has an option."""
    out = [(b.page, line) for b in BLOCKS if b.language == "sh" for line in commands(b)]
    for page in pages():
        text = re.sub(r"^( *)```.*?^\1```$", "", (ROOT / page).read_text(), flags=re.M | re.S)
        out += [(page, " ".join(line.split())) for line in re.findall(r"`(covjax [^`]*--[^`]* [^-`][^`]*)`", text)]
    return out


def problem(line: str) -> str:
    """Why a line of the shell would fail before it does anything; empty where it would not."""
    words = [re.sub(r"^\$\w+$", "1", word) for word in shlex.split(re.sub(r"--config \S*my_config.py", "", line))]
    while words and (
        re.match(r"[A-Z_]+=", words[0]) or words[0] in ("do", "srun", "nice") or words[0].startswith("--kill")
    ):
        words = words[1:]
    if not words or words[-1] == "&":
        words = words[:-1]
    if words[:2] == ["python", "-m"] and words[2:]:
        if words[2] == "covjax":
            words = ["covjax", *words[3:]]
        elif words[2] in OLD:
            words = ["covjax", *OLD[words[2]].split(), *words[3:]]
        else:
            return _module_problem(words[2], words[3:])
    if words[:1] == ["pip"]:
        return _pip_problem(words)
    return _covjax_problem(words[1:]) if words[:1] == ["covjax"] else ""


def _covjax_problem(words: list[str]) -> str:
    if not words or "…" in words or words[0].startswith("-"):
        return "" if not words or words[0] in ("--help", "--version", "--quiet", "…") else f"{words[0]}: unknown"
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    rest = words[len(name.split()) :]
    if name == "info":
        return "" if set(rest[::2]) <= {"--encoder", "--json", "--help"} else str(rest)
    if name == "tasks":
        names = {each for word in rest[:1] for each in word.split(",")}
        return "" if names <= {*TASK_CONFIGS, "all"} else str(names)
    if name not in COMMANDS:
        return f"{name}: no command"
    if "--help" in rest:
        return ""
    kind, main, more = COMMANDS[name]
    try:
        config, _ = parse(
            "covjax", "", kind, rest, main, distributed=name not in ("embed", "predict", "explain", "dashboard"), **more
        )
        if hasattr(config, "check") and (config.data or getattr(config, "store", "")):
            config.check()
    except (SystemExit, InputError) as error:
        return str(error) or "refused"
    return ""


def _pip_problem(words: list[str]) -> str:
    text = " ".join(words)
    extras = {each for group in re.findall(r"(?:covjax|\.)\[([\w,-]+)\]", text) for each in group.split(",")}
    known = set(re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.M)) | set(EXTRAS)
    files = [name for name in re.findall(r"constraints-\S+", text) if not (ROOT / name).is_file()]
    return str(files or "") or str(extras - known or "")


def _module_problem(name: str, words: list[str]) -> str:
    path = ROOT / name.replace(".", "/")
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    if name in ("venv", "build"):
        return ""
    if not file.is_file():
        return f"{name}: no module"
    source = "".join(each.read_text() for each in file.parent.glob("*.py"))
    options = [word.split("=")[0] for word in words if word.startswith("--")]
    missing = [o for o in options if o not in source and o[2:].replace("-", "_") not in source]
    return f"{name}: {missing}" if missing else ""


def test_every_command_of_the_pages_is_understood(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert problem("covjax compare my.csv --row mean")
    assert problem("covjax compair my.csv")
    assert problem('pip install "covjax[nothing]"')
    assert problem("python -m eval.nothing")
    bad = [(page, line, why) for page, line in lines() if (why := problem(line))]
    assert not bad, "\n".join(map(str, bad)) + capsys.readouterr().err
    assert len(lines()) > 80


@pytest.mark.long
@pytest.mark.parametrize("page", TUTORIALS)
@needs_weights
def test_a_tutorial_runs_and_prints_what_it_shows(page, tmp_path, monkeypatch):
    if "pytorch" in page:
        pytest.importorskip("torch")
    if "scikit" in page:
        pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    compared = 0
    for block, printed, shown in outputs(page):
        if shown is not None:
            assert same(printed, shown), f"{page}:{block.line}\n{printed}\nnot\n{shown}"
            compared += 1
    assert compared


@pytest.mark.parametrize("page", TUTORIALS)
def test_a_notebook_has_the_blocks_of_its_page_and_their_outputs(page):
    """`test_a_tutorial_runs_and_prints_what_it_shows` runs the blocks and compares these outputs."""
    cells = json.loads(notebook(page))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    every = blocks(page)
    assert [cell["source"] + "\n" for cell in code] == [b.text for b in every if b.language == "python"]
    kept = [cell["outputs"][0]["text"] for cell in code if cell["outputs"]]
    assert kept == [after.text for before, after in pairwise(every) if shows(before, after)]
    assert kept
    prose = "".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    assert "```python" not in prose
    assert not re.search(r"\]\((?!https?://|#)", prose)


def test_there_are_six_tutorials():
    assert len(TUTORIALS) == 6


@pytest.mark.parametrize("page", pages())
def test_files_and_tests_that_a_page_names_are_there(page):
    text = (ROOT / page).read_text()
    for name in re.findall(r"(?:tests|eval|covjax|train|configs)/[\w/]+\.(?:py|sh)", text):
        assert (ROOT / name).is_file(), name
    for name, word in re.findall(r"pytest [^`\n]*?(tests/\w+\.py) -k (\w+)", text):
        assert re.search(rf"^def test_\w*{word}", (ROOT / name).read_text(), re.M), (name, word)


def test_texts_are_the_same_only_where_words_and_numbers_are():
    assert same("fvu 0.31 of (5, 2080)\n", "fvu 0.32 of (5, 2080)\n")
    assert not same("fvu 0.31\n", "fvu 0.41\n")
    assert not same("(5, 2080)", "(6, 2080)")
    assert not same("better", "worse")
    assert not same("1 2", "1")


def test_the_page_of_recipes_is_what_the_code_gives():
    page = (ROOT / "docs/recipes.md").read_text()
    assert page == recipe_page.page()
    for name in covjax.recipe_names():
        assert f"\n### {recipe_page.key(name)}\n" in page, name
    for name in pooler_names():
        assert f"\n| `{name}` |" in page, name


def test_sizes_on_the_page_are_those_of_the_code():
    checked = 0
    for recipe in recipe_page.listed():
        size = recipe_page.numbers(recipe_page.WORDS[recipe_page.key(recipe.name)].size, 16)
        if type(recipe) is Pooled and size is not None:
            (one,) = get_recipe(recipe.name)
            assert widths(unfitted_pools([one]), 16) == {recipe.name: size}, recipe.name
            checked += 1
    assert checked > 15


def test_every_page_is_in_the_site_and_every_public_name_in_its_reference():
    text = re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text())
    nav = set(re.findall(r"[\w/-]+\.md", str(yaml.safe_load(text)["nav"])))
    above = set(re.findall(r'": "([\w-]+\.md)"', (ROOT / "docs/hooks.py").read_text()))
    assert nav == {page.removeprefix("docs/") for page in pages() if page.startswith("docs/")} | above
    reference = "".join((ROOT / page).read_text() for page in pages() if page.startswith("docs/api/"))
    for module, names in covjax._HOMES.items():
        assert re.search(rf"::: covjax\.{module}(\.\w+)*$", reference, re.M), (module, names)


def test_the_owner_finds_every_placeholder_on_one_page():
    page = (ROOT / "docs/releasing.md").read_text()
    files = ["README.md", "CITATION.cff", "pyproject.toml", "mkdocs.yml", "SECURITY.md", "CONTRIBUTING.md"]
    files += [name for name in pages() if name.startswith("docs/")]
    places = [name for name in dict.fromkeys(files) if "OWNER" in (ROOT / name).read_text()]
    assert all(f"`{name}`" in page for name in places if name != "docs/releasing.md"), places
    assert "README.md" in places
