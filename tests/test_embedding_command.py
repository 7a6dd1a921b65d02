"""`covjax embed` and `covjax predict`: every format, states applied to other files, and every kind of mistake."""

import csv

import numpy as np
import pytest

from covjax.command import main
from covjax.comparison.model import Model
from covjax.embedder import Embedder
from covjax.encoders import register_encoder
from covjax.encoders.unirep import UniRep
from covjax.probes import LinearProbe
from tests.encoders.folders import write_bert
from tests.test_unirep import random_weights

register_encoder("toy-unirep", lambda dtype: UniRep(random_weights()))
SEQUENCES = {"a": "MKVAC", "=1+1": "MACDEFGHIK", "c d": "MKVAC", "é": "MWWY"}
COMMON = ["--encoder", "toy-unirep", "--recipe", "mean"]


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "s.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "sequence"), *SEQUENCES.items()])
    return tmp_path


@pytest.fixture
def vectors():
    sequences = list(SEQUENCES.values())
    return Embedder("toy-unirep", "mean").fit(sequences).transform(sequences)


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"covjax {argv[0]}: error: ")
    return error


def load(path):
    """Ids and vectors of a file of any format."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["ids"].tolist(), arrays["vectors"]
    if path.suffix == ".npy":
        return path.with_suffix(".ids.txt").read_text(encoding="utf-8").splitlines(), np.load(path)
    if path.suffix == ".h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path) as file:
            return [name.decode() for name in file["ids"][:]], file["vectors"][:]
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = parquet.read_table(path).to_pydict()
        return columns["id"], np.array(columns["vector"], np.float32)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["id", *(f"x{i}" for i in range(len(rows[0]) - 1))]
    ids = [row[0].removeprefix("'") for row in rows[1:]]
    return ids, np.array([row[1:] for row in rows[1:]], np.float32)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".csv", ".h5", ".parquet"])
def test_every_format_has_the_vectors_with_their_ids(table, vectors, suffix, capsys):
    if suffix in (".h5", ".parquet"):
        pytest.importorskip({".h5": "h5py", ".parquet": "pyarrow"}[suffix])
    path = table / "new" / f"out{suffix}"
    argv = ["embed", "s.csv", *COMMON, "--to", str(path)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert out.endswith(f"4 sequences x 8 numbers (mean) in {path}\n")
    assert f"state: fitted on these 4 sequences, written to {path}.fitted; others: --fitted" in out
    ids, written = load(path)
    assert ids == list(SEQUENCES)
    np.testing.assert_array_equal(written, vectors)
    state = {f"out{suffix}", f"out{suffix}.fitted", *(["out.ids.txt"] if suffix == ".npy" else [])}
    assert {each.name for each in path.parent.iterdir()} == state
    assert "is there already; name another file, or add --force" in refused(capsys, *argv)
    assert main([*argv, "--force", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (f"4 sequences x 8 numbers (mean) in {path}\n", "")
    np.testing.assert_array_equal(load(path)[1], vectors)


def test_a_state_of_one_file_applies_to_another(table, vectors, capsys):
    assert main(["embed", "s.csv", *COMMON, "--to", "all.npz"]) == 0
    (table / "one.fasta").write_text(">x\nMACDEFGHIK\n")
    assert main(["embed", "one.fasta", "--fitted", "all.npz.fitted", "--to", "one.npy"]) == 0
    assert "state: all.npz.fitted (mean, fitted earlier)" in capsys.readouterr().out
    ids, written = load(table / "one.npy")
    assert ids == ["x"]
    np.testing.assert_allclose(written, vectors[1:2], atol=1e-6)
    assert not (table / "one.npy.fitted").exists()
    argv = ["embed", "one.fasta", "--fitted", "all.npz.fitted", "--to", "two.npy"]
    assert "recipe: 'max', but all.npz.fitted was fitted with 'mean'" in refused(capsys, *argv, "--recipe", "max")
    assert "layer: 0, but all.npz.fitted was fitted with 1" in refused(capsys, *argv, "--layer", "0")
    default = "recipe: 'log_covariance', but all.npz.fitted was fitted with 'mean'"
    assert default in refused(capsys, *argv, "--recipe", "log_covariance")
    assert main([*argv, "--recipe", "mean", "--layer", "1"]) == 0


@pytest.mark.parametrize(
    ("sequences", "vocabulary"),
    [
        (("a small world", "two words", "a"), ["a", "small", "world", "two", "words"]),
        (("ACGTA", "GGCAC"), [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]),
    ],
)
def test_text_and_dna_are_embedded_by_their_encoders(table, rng, sequences, vocabulary):
    (table / "encoder").mkdir()
    write_bert(table / "encoder", rng, words=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *vocabulary])
    (table / "s.txt").write_text("\n".join(sequences) + "\n")
    assert main(["embed", "s.txt", "--encoder", "encoder", "--recipe", "cls"]) == 0
    ids, written = load(table / "embeddings.npz")
    assert ids == [f"row{i + 1}" for i in range(len(sequences))]
    assert written.shape == (len(sequences), 16)


MISTAKES = [
    (["absent.fasta"], "absent.fasta: no such file"),
    ([], "data: no file is named; covjax embed proteins.fasta"),
    (["s.csv", "--to", "x.xlsx"], "to: 'x.xlsx' ends in none of .npz"),
    (["s.csv", "--to", "folder.npz"], "to: folder.npz is a folder"),
    (["s.csv", "--recipe", "log-covariance"], "did you mean log_covariance"),
    (["s.csv", "--recipe", "attention"], "trained on labels"),
    (["s.csv", "--eps", "0"], "eps: 0.0 is not allowed"),
    (["s.csv", "--eps", "nan"], "eps: nan is float, a finite number is needed"),
    (["s.csv", "--layer", "7"], "layer: 7 is not one of"),
    (["s.csv", "--token-budget", "0"], "token_budget: 0 is not allowed"),
    (["s.csv", "--encoder", "nowhere"], "encoder: 'nowhere' is not known"),
    (["s.csv", "--fitted", "s.csv"], "s.csv: no fitted recipe is saved there"),
    (["s.csv", "--max-length", "5"], "s.csv: '=1+1': 10 letters, more than max_length 5"),
    (["bad.csv"], "bad.csv: 'b': unknown residue letter '*'"),
    (["dna.csv"], "looks like DNA"),
    (["s.csv", "t.csv"], "unrecognized arguments: t.csv"),
    (["s.csv", "--to", "taken.npz", "--force"], "taken.npz.fitted, where the fitted state goes, is there already"),
]


@pytest.mark.parametrize(("argv", "message"), MISTAKES)
def test_mistakes_of_embed_are_one_line_and_write_nothing(table, capsys, argv, message):
    (table / "folder.npz").mkdir()
    (table / "taken.npz.fitted").mkdir()
    (table / "bad.csv").write_text("id,sequence\na,MKV\nb,M*K\n")
    (table / "dna.csv").write_text("sequence\n" + f"{'ACGTTGCA' * 10}\n" * 5)
    before = {path: path.stat().st_mtime_ns for path in table.rglob("*")}
    encoder = [] if "--encoder" in argv else ["--encoder", "toy-unirep"]
    assert message in refused(capsys, "embed", *argv, *encoder)
    assert {path: path.stat().st_mtime_ns for path in table.rglob("*")} == before


def model(folder, task="multiclass", labels=("=no", "yes"), kind="logistic"):
    embedder = Embedder("toy-unirep", "mean").fit(list(SEQUENCES.values()))
    rng = np.random.default_rng(0)
    made = Model(embedder, LinearProbe(rng.normal(size=(8, len(labels))), np.zeros(len(labels))), kind, task, labels)
    made.save(folder)
    return made


def test_predict_writes_decisions_and_the_score_of_every_label(table, capsys):
    made = model(table / "model")
    assert main(["predict", "model", "s.csv"]) == 0
    assert capsys.readouterr().out.endswith("4 predictions, probabilities of 2 labels in predictions.csv\n")
    with (table / "predictions.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "prediction", "'=no", "yes"]
    assert [row[0] for row in rows] == ["a", "'=1+1", "c d", "é"]
    sequences = list(SEQUENCES.values())
    assert [row[1].removeprefix("'") for row in rows] == list(made.predict(sequences))
    np.testing.assert_allclose(np.array([row[2:] for row in rows], float), made.predict_proba(sequences), atol=1e-6)
    assert rows[0][1:] == rows[2][1:]  # the same sequence
    again = ["predict", "--model", "model", "--data", "s.csv"]
    assert "predictions.csv is there already" in refused(capsys, *again)
    assert main([*again, "--force", "--to", "predictions.csv"]) == 0


def test_predict_of_numbers_has_one_column(table, capsys):
    made = model(table / "model", "regression", ("value",), "ridge")
    capsys.readouterr()
    assert main(["predict", "model", "s.csv", "--to", "numbers.csv", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("4 predictions in numbers.csv\n", "")
    with (table / "numbers.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "prediction"]
    np.testing.assert_allclose([float(row[1]) for row in rows], made.predict(list(SEQUENCES.values())), rtol=1e-6)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "model: none is named; covjax predict runs/mine/model new.fasta"),
        (["model"], "data: none is named"),
        (["s.csv", "model"], "no model is saved there"),
        (["model", "s.csv", "x"], "unrecognized arguments: x"),
        (["model", "s.csv", "--model", "m"], "two files: 's.csv' and --model 'm'"),
        (["model", "s.csv", "--to", "x.npz"], "to: 'x.npz' ends in none of .csv"),
        (["model", "s.csv", "--encoder", "nowhere"], "say where that encoder is now (encoder=, --encoder)"),
        (["model", "bad.csv"], "bad.csv: 'b': unknown residue letter '*'"),
    ],
)
def test_mistakes_of_predict_are_one_line(table, capsys, argv, message):
    model(table / "model")
    (table / "bad.csv").write_text("id,sequence\na,MKV\nb,M*K\n")
    assert message in refused(capsys, "predict", *argv)
    assert not (table / "predictions.csv").exists()


def test_a_state_with_a_changed_byte_is_refused(table, capsys):
    assert main(["embed", "s.csv", *COMMON, "--quiet"]) == 0
    files = [path for path in (table / "embeddings.npz.fitted").rglob("*") if path.is_file()]
    refusals = 0
    for number, path in enumerate(sorted(files)):
        content = path.read_bytes()
        if not content or path.name == "_CHECKPOINT_METADATA":
            continue
        path.write_bytes(content[: len(content) // 2])
        argv = ["embed", "s.csv", "--fitted", "embeddings.npz.fitted", "--to", f"{number}.npz"]
        try:
            code = main(argv)
        except SystemExit as error:
            code = error.code
        if code:
            assert (code, "embeddings.npz.fitted" in capsys.readouterr().err) == (2, True)
            refusals += 1
        else:  # a file that Orbax does not need
            np.testing.assert_array_equal(load(table / f"{number}.npz")[1], load(table / "embeddings.npz")[1])
        path.write_bytes(content)
    assert refusals >= 3
