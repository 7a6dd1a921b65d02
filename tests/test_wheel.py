"""The wheel holds everything that a user needs, and works in an empty folder without the clone."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.encoders.folders import write_bert

BUILD = (  # each build leaves other arguments in sys.argv
    "import sys; from setuptools import build_meta as b; folder = sys.argv[1]; "
    "print(b.build_sdist(folder), b.build_wheel(folder))"
)
PAPERS = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md", "CITATION.cff")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what is packed, so that the working tree stays as it is."""
    source = tmp_path_factory.mktemp("source")
    for path in (*(ROOT / name for name in PAPERS), *ROOT.glob("constraints-*.txt")):
        shutil.copy(path, source)
    for name in ("covjax", "eval", "train", "configs", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    return source


@pytest.fixture(scope="module")
def archives(source, tmp_path_factory) -> Path:
    """A folder with wheel and source archive."""
    output = tmp_path_factory.mktemp("archives")
    subprocess.run([sys.executable, "-c", BUILD, str(output)], cwd=source, check=True, capture_output=True)
    return output


@pytest.fixture(scope="module")
def wheel(archives) -> Path:
    (path,) = archives.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def covjax(unpacked, folder, *argv):
    environment = os.environ | {"PYTHONPATH": str(unpacked), "COLUMNS": "80"}
    command = [sys.executable, "-m", "covjax", *argv]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_every_file_of_the_package_is_in_the_wheel_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    tree = {path.relative_to(ROOT).as_posix() for path in (ROOT / "covjax").rglob("*") if path.is_file()}
    tree = {name for name in tree if "__pycache__" not in name}
    assert {name for name in names if ".dist-info/" not in name} == tree
    assert {"covjax/py.typed", "covjax/tasks/run.py", "covjax/tasks/quickstart/swissprot_go_mf.csv.gz"} <= names
    assert "covjax/tasks/quickstart/swissprot_go_mf_terms.csv" in names


def test_the_source_archive_has_the_library_its_papers_and_no_path_of_a_machine(archives):
    (path,) = archives.glob("*.tar.gz")
    with tarfile.open(path) as file:
        contents = {m.name.partition("/")[2]: file.extractfile(m).read() for m in file.getmembers() if m.isfile()}
    tree = {path.relative_to(ROOT).as_posix() for path in (ROOT / "covjax").rglob("*") if path.is_file()}
    assert {name for name in contents if name.startswith("covjax/")} == {n for n in tree if "__pycache__" not in n}
    others = {name for name in contents if not name.startswith(("covjax/", "covjax.egg-info/"))}
    constraints = {path.name for path in ROOT.glob("constraints-*.txt")}
    assert others == {*PAPERS, *constraints, "PKG-INFO", "setup.cfg"}
    home = re.compile(rb"/(?:home|root|Users|work)/\w")
    assert home.search(b"in /home/somebody")
    assert [name for name, text in contents.items() if b"\0" not in text[:1000] and home.search(text)] == []


def test_the_version_is_the_same_everywhere():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"dist/covjax-{version}-py3" in (ROOT / "docs/releasing.md").read_text()


def test_the_wheel_has_one_command(wheel):
    with zipfile.ZipFile(wheel) as file:
        (entry,) = [name for name in file.namelist() if name.endswith("entry_points.txt")]
        assert file.read(entry).decode().split("\n")[:2] == ["[console_scripts]", "covjax = covjax.command:main"]
        (top,) = [name for name in file.namelist() if name.endswith("top_level.txt")]
        assert file.read(top).decode().split() == ["covjax"]


@pytest.mark.long
def test_version_tasks_and_info_of_the_wheel(unpacked, tmp_path):
    script = "import covjax; print(covjax.__file__)"
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert Path(run.stdout.strip()).is_relative_to(unpacked)
    assert covjax(unpacked, tmp_path, "--version").stdout.startswith("covjax 0.")
    assert "go_unirep" in covjax(unpacked, tmp_path, "tasks").stdout
    facts = json.loads(covjax(unpacked, tmp_path, "info", "--json").stdout)
    assert "log_covariance" in facts["poolers"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_comparison_in_an_empty_folder(unpacked, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "encoder").mkdir()
    write_bert(tmp_path / "encoder", rng, d=8, blocks=1)
    sequences = ["".join(rng.choice(list("ACDEFGHIKL"), 12)) for _ in range(90)]
    rows = [f"{sequence},{int('A' in sequence)}" for sequence in sequences]
    (tmp_path / "my.csv").write_text("\n".join(["sequence,label", *rows]) + "\n")
    options = ["--encoder", "encoder", "--rows", "mean,covariance", "--resamples", "100", "--ranks", "2"]
    run = covjax(unpacked, tmp_path, "compare", "my.csv", *options, "--output", "out", "--quiet")
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert "Validation chose covariance: " in " ".join(run.stdout.split())
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["manifest"]["command"].startswith("covjax compare my.csv ")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.html", "results.json", "figures", "predictions.csv", "model"} <= written

    text = "".join(f">s{i}\n{sequence}\n" for i, sequence in enumerate(sequences))
    (tmp_path / "new.fasta").write_text(text)
    (tmp_path / "elsewhere").mkdir()
    run = covjax(unpacked, tmp_path / "elsewhere", "predict", "../out/model", "../new.fasta", "--quiet")
    assert (run.returncode, run.stderr) == (0, "")
    theirs = [line.split(",") for line in (tmp_path / "out" / "predictions.csv").read_text().splitlines()]
    ours = [line.split(",") for line in (tmp_path / "elsewhere" / "predictions.csv").read_text().splitlines()]
    assert [row[1] for row in ours] == [row[3] for row in theirs]

    run = covjax(unpacked, tmp_path, "embed", "new.fasta", "--encoder", "encoder", "--recipe", "mean", "--quiet")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == "90 sequences x 8 numbers (mean) in embeddings.npz\n"
    with np.load(tmp_path / "embeddings.npz") as arrays:
        assert arrays["ids"].tolist() == [f"s{i}" for i in range(90)]
        assert arrays["vectors"].shape == (90, 8)


def test_a_script_beside_a_clone_imports_the_library_and_not_the_folder(source, tmp_path):
    # An editable install puts the clone on the path by a `.pth` file. The folder of the script comes first there, and
    # a clone named covjax lies in it.
    build = "import sys; from setuptools import build_meta as b; b.build_editable(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True)
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        (name,) = (name for name in file.namelist() if not name.split("/")[0].endswith(".dist-info"))
        clone = file.read(name).decode().strip()
    assert Path(clone) == source, f"{name} is no path to the clone"
    (tmp_path / "covjax" / "covjax").mkdir(parents=True)
    (tmp_path / "script.py").write_text("import covjax; print(covjax.__file__)")
    environment = os.environ | {"PYTHONPATH": clone}
    run = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert Path(run.stdout.strip()) == source / "covjax" / "__init__.py", run.stderr
