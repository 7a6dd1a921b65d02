"""`--folds`: every number by a plain loop, choices inside folds alone, resumed to the same bits, refused by name."""

import csv
import json

import numpy as np
import pytest
from scipy import stats
from threadpoolctl import threadpool_info, threadpool_limits

import covjax
from covjax import InputError
from covjax.comparison import folds as fold_fits
from covjax.comparison.config import CompareConfig
from covjax.comparison.fold_text import folds_note
from covjax.comparison.mixtures import choose_shares
from covjax.comparison.model import Model
from covjax.comparison.probing import fit_row, two_threads
from covjax.comparison.results import read_results
from covjax.comparison.verdict import table
from covjax.data import read_table
from covjax.data.dataset import Dataset
from covjax.data.folds import drop_rare_in_folds
from covjax.data.splits import SPLITS, assign_folds
from covjax.embedding.tables import make_table
from covjax.jobs import checkpoint
from covjax.metrics import corrected_interval

N, TOKENS, FEATURES = 72, 12, 92  # 92 features: a covariance has 4,278 numbers and is compared through its kernel
ROWS = ["mean", "mean_std", "covariance", "mean_outer", "mean+sqrt_covariance", "sqrt_covariance"]
PENALTIES = [1e-3, 1e-2, 1e-1, 1.0]
OPTIONS = {"rows": ROWS, "penalties": PENALTIES, "probes": ["ridge"], "ranks": [], "trained": [], "resamples": 100}
OPTIONS |= {"folds": 3, "repeats": 2}


def write(folder, rng, regression=True, n=N, features=FEATURES):
    """A table of groups of two, and tokens whose targets are in how features occur together."""
    sign = rng.choice([-1.0, 1.0], n)
    tokens = []
    for each in sign:
        x = rng.normal(size=(TOKENS, features))
        x[:, 1] = each * 0.9 * x[:, 0] + 0.4 * x[:, 1]
        tokens.append(x.astype(np.float32))
    lines = [
        f"s{i},{value + 0.3 * rng.normal():.6f},g{i // 2}" if regression else f"s{i},{'ab'[int(value > 0)]},g{i // 2}"
        for i, value in enumerate(sign)
    ]
    path = folder / "t.csv"
    path.write_text("\n".join(["id,label,group", *lines]) + "\n")
    return path, tokens


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds")
    path, tokens = write(folder, np.random.default_rng(0))
    return path, tokens, covjax.compare(path, activations=tokens, output=folder / "run", **OPTIONS)


def values_of(folder, name):
    manifest = checkpoint.read_manifest(folder / "features" / name)
    return checkpoint.load(folder / "features" / name, {"values": 0})["values"].astype(float), manifest["is_kernel"]


def ridge_by_hand(kernel, y, train, penalty):
    """Scores of all rows: kernel ridge with an intercept, the penalty relative to the mean squared norm."""
    inner = kernel[np.ix_(train, train)]
    mean = inner.mean(0)
    centred = inner - mean - mean[:, None] + inner.mean()
    cross = kernel[:, train] - kernel[:, train].mean(1, keepdims=True) - mean + inner.mean()
    scale, n = np.trace(centred) / len(train), len(train)
    alpha = np.linalg.solve(centred + n * penalty * scale * np.eye(n), y[train] - y[train].mean())
    return cross @ alpha + y[train].mean()


def r2(truth, scores):
    return 1 - ((truth - scores) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()


@pytest.mark.long
def test_every_fold_is_kernel_ridge_with_its_penalty_chosen_inside(finished):
    path, *_, run = finished
    results = run.results
    data = read_table(path, needs_sequence=False)
    folds = assign_folds(data, 3, 2)
    y = data.targets[:, 0]
    wide = 0
    by_hand = {}
    for name in ROWS:
        values, is_kernel = values_of(run.folder, name)
        wide += is_kernel
        kernel = values if is_kernel else values @ values.T
        out = []
        for fold in folds:
            train, validation, test = (fold.rows(split) for split in SPLITS)
            scores = [ridge_by_hand(kernel, y, train, penalty) for penalty in PENALTIES]
            best = max(range(len(scores)), key=lambda i: r2(y[validation], scores[i][validation]))
            out.append(r2(y[test], scores[best][test]))
        by_hand[name] = out
        np.testing.assert_allclose(results.folds.values[name]["ridge"]["r2"], out, atol=1e-6, err_msg=name)
        assert results.by_label[name].probes["ridge"].test["r2"].value == pytest.approx(np.mean(out), abs=1e-6)
    assert wide >= 3  # kernels of all sequences, sliced
    ratio = np.mean([len(fold.rows("test")) / len(fold.rows("train")) for fold in folds])
    assert results.folds.ratio == pytest.approx(ratio)
    for name in ROWS[1:]:
        d = np.subtract(by_hand[name], by_hand["mean"])
        ends = stats.t.interval(0.95, 5, d.mean(), d.std(ddof=1) * np.sqrt(1 / 6 + ratio))
        score = results.by_label[name].probes["ridge"].test["r2"]
        np.testing.assert_allclose(score.difference_interval, ends, atol=1e-5)
        assert score.difference == pytest.approx(d.mean(), abs=1e-6)


def test_features_see_all_sequences(finished):
    _, tokens, run = finished
    values, is_kernel = values_of(run.folder, "mean")
    every = np.concatenate(tokens).astype(float)
    standard = [(x - every.mean(0)) / every.std(0) for x in tokens]
    assert not is_kernel
    np.testing.assert_allclose(values, [x.mean(0) for x in standard], atol=1e-4)


def test_the_gain_is_that_of_each_folds_own_choice(finished):
    results = finished[2].results
    values = results.folds.values
    for name, contrast in {**results.contrasts, **results.chain}.items():
        assert len(contrast.choices) == 6, name
        pairs = enumerate(contrast.choices)
        d = [values[a]["ridge"]["r2"][j] - values[b]["ridge"]["r2"][j] for j, (a, b) in pairs]
        assert contrast.value == pytest.approx(np.mean(d))
        assert (*contrast.interval, contrast.p_value) == pytest.approx(corrected_interval(d, results.folds.ratio))
    for j in range(6):
        file = finished[2].folder / "folds" / "3" / f"repeat-{1 + j // 3}-fold-{1 + j % 3}.json"
        rows = json.loads(file.read_text())["rows"]
        best = {name: max(rows[name]["probes"]["ridge"]["validation"]) for name in ROWS}
        second = ["covariance", "mean+sqrt_covariance", "sqrt_covariance"]
        assert best[results.contrasts["gain"].choices[j][0]] == max(best[name] for name in second)
    steps = sum(step.value for step in results.chain.values())
    last = list(results.chain.values())[-1].choices
    total = [values[a]["ridge"]["r2"][j] - values["mean"]["ridge"]["r2"][j] for j, (a, _) in enumerate(last)]
    assert steps == pytest.approx(np.mean(total))


def test_every_sequence_is_predicted_once_a_repeat_without_its_group(finished):
    path, *_, run = finished
    with (run.folder / "predictions.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * N
    fold_of = {}
    for line in lines:
        group = int(line["id"][1:]) // 2
        assert fold_of.setdefault((line["repeat"], group), line["fold"]) == line["fold"]
    data, results = read_table(path, needs_sequence=False), run.results
    for repeat in (1, 2):
        for fold in (1, 2, 3):
            own = [line for line in lines if (line["repeat"], line["fold"]) == (str(repeat), str(fold))]
            truth = np.array([float(line["truth"]) for line in own])
            for column, name in (("prediction", results.winner), ("prediction_of_mean", "mean")):
                value = r2(truth, np.array([float(line[column]) for line in own]))
                wanted = results.folds.values[name]["ridge"]["r2"][3 * (repeat - 1) + fold - 1]
                assert value == pytest.approx(wanted, abs=1e-5)
    assert [float(line["truth"]) for line in lines[:N]] == pytest.approx(data.targets[:, 0].tolist())


def test_the_model_is_fitted_on_all_sequences(finished):
    path, tokens, run = finished
    results = run.results
    best = {row.label: row.probes["ridge"].validation for row in results.rows if row.role == "second order"}
    assert results.winner == max(best, key=best.get)
    model = run.best()
    y = read_table(path, needs_sequence=False).targets[:, 0]
    values, is_kernel = values_of(run.folder, results.winner)
    penalty = results.by_label[results.winner].probes["ridge"].penalty
    wanted = ridge_by_hand(values if is_kernel else values @ values.T, y, np.arange(N), penalty)
    np.testing.assert_allclose(model.predict(tokens), wanted, atol=2e-3)


def test_table_verdict_and_report_name_the_folds(finished):
    results, folder = finished[2].results, finished[2].folder
    text = finished[2].verdict
    assert text.startswith("3 folds, repeated twice: every sequence was test twice. Each fold's validation chose")
    assert "of 6 folds" in text
    assert "fitted on all sequences" in text
    assert "best on validation, mean over folds" in table(results)
    page = (folder / "report.html").read_text()
    for words in ("Fold by fold", "Nadeau and Bengio 2003", "but never a label", "corrected resampled"):
        assert words in page
    assert "paired bootstrap" not in page
    assert "95 % bootstrap" not in page
    assert f"on {results.folds.sequences} sequences in the mean over folds" in page
    assert read_results(folder / "results.json") == results


def same_numbers(a, b):
    return {**a.results.dump(), "manifest": 0} == {**b.results.dump(), "manifest": 0}


@pytest.mark.long
def test_a_killed_run_goes_on_to_the_same_bits(finished, tmp_path, monkeypatch):
    path, tokens, whole = finished
    written, fits = [], []

    def stop(file, value):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(file)
        write(file, value)

    write = fold_fits.write_sealed
    monkeypatch.setattr(fold_fits, "write_sealed", stop)
    with pytest.raises(KeyboardInterrupt):
        covjax.compare(path, activations=tokens, output=tmp_path / "run", **OPTIONS)
    assert not (tmp_path / "run" / "results.json").exists()
    written[0].write_text(written[0].read_text().replace("0.1", "0.2", 1))  # damaged: made again
    monkeypatch.setattr(fold_fits, "write_sealed", write)
    monkeypatch.setattr(fold_fits, "fit_row", lambda *given: fits.append(0) or fit_row(*given))
    again = covjax.compare(path, activations=tokens, output=tmp_path / "run", **OPTIONS)
    assert len(fits) == 3 * len(ROWS)  # two that were not there, and the damaged one
    assert same_numbers(again, whole)
    for name in ("predictions.csv", "folds/3/repeat-1-fold-1.json", "folds/3/repeat-2-fold-3.json"):
        assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    # Rows and repeats may come to those that are there.
    fits.clear()
    more = covjax.compare(path, activations=tokens, output=tmp_path / "run", **OPTIONS | {"repeats": 3})
    assert len(fits) == 3 * len(ROWS)
    assert more.results.folds.values["mean"]["ridge"]["r2"][:6] == whole.results.folds.values["mean"]["ridge"]["r2"]
    assert more.results.test_looks == 2


@pytest.mark.long
def test_classes_under_both_probes_and_a_mixture(tmp_path):
    path, tokens = write(tmp_path, np.random.default_rng(1), regression=False, features=6)
    rows = ["mean", "regional_mean", "sqrt_covariance", "log_covariance", "auto"]
    rows += ["mean_rbf", "shuffled_covariance", "covariance"]
    options = OPTIONS | {"rows": rows, "probes": [], "folds": 2, "repeats": 1, "penalties": [1e-2, 1e-1]}
    run = covjax.compare(path, activations=tokens, output=tmp_path / "run", **options)
    results = run.results
    assert results.probes == ("logistic", "ridge")
    assert results.folds.count == 2
    config = CompareConfig(data=str(path), penalties=(1e-2, 1e-1), folds=2, repeats=1)
    data, folds = fold_fits.fold_data(config, read_table(path, needs_sequence=False))
    blocks = [make_table(values_of(run.folder, name)[0], data.rows("train")) for name in rows[:4]]
    for j, fold in enumerate(folds):
        file = json.loads((run.folder / "folds" / "2" / f"repeat-1-fold-{j + 1}.json").read_text())
        assert tuple(file["rows"]["auto"]["shares"]) == choose_shares(blocks, 4, fold, config)
    assert results.by_label["log_covariance"].probes["ridge"].test["mcc"].value > 0.5
    assert isinstance(run.best(), Model)
    assert len(run.best().predict(tokens)) == N


def test_what_has_no_folds_is_refused(tmp_path):
    path, tokens = write(tmp_path, np.random.default_rng(2), regression=False, features=4)

    def refuse(message, **options):
        with pytest.raises(InputError, match=message):
            covjax.compare(path, activations=tokens, output=tmp_path / "run", **OPTIONS | options)

    refuse("folds: 40 are more than the 36 groups", folds=40)
    refuse("folds: 1 is not allowed; 0, or >= 2", folds=1)
    refuse("repeats: 0 is not allowed", repeats=0)
    refuse("folds: retrieval has no folds", protocol="retrieval")
    refuse("repeats: 2 is of folds, and there are none", folds=0)
    (tmp_path / "n.csv").write_text("label,name\na,first\nb,second\n")
    refuse("label_names: .*n.csv: t.csv has classes", label_names=str(tmp_path / "n.csv"))
    refuse("folds: they need all inner products", landmarks=16)
    refuse("rows: 'attention' is trained on labels", rows=["mean", "covariance", "attention"])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0] + ",split", *(f"{line},train" for line in lines[1:])]))
    refuse("folds: t.csv has a column 'split'")


@pytest.mark.long
def test_a_table_of_one_label_has_a_report(tmp_path):
    path, tokens = write(tmp_path, np.random.default_rng(3), regression=False, features=4)
    text = path.read_text().replace("id,label,group", "id,labels,group")
    path.write_text(text.replace(",a,", ",binds,").replace(",b,", ",,"))
    options = OPTIONS | {"rows": ["mean", "covariance"], "repeats": 1, "output": tmp_path / "run"}
    result = covjax.compare(path, activations=tokens, **options)
    assert [term["name"] for term in json.loads((tmp_path / "run" / "results.json").read_text())["terms"]] == ["binds"]
    assert "binds" in (tmp_path / "run" / "report.html").read_text()
    assert result.verdict


def labels(rng, counts, n=60):
    targets = np.zeros((n, len(counts)), bool)
    for j, count in enumerate(counts):
        targets[rng.choice(n, count, replace=False), j] = True
    names = tuple(f"t{j}" for j in range(len(counts)))
    ids = tuple(f"s{i}" for i in range(n))
    return Dataset("t.csv", "multilabel", ids, (), targets, names, ids, None, True)


def test_a_label_that_some_fold_lacks_is_left_out_of_all(rng):
    folds = drop_rare_in_folds(assign_folds(labels(rng, (30, 2, 20)), 4, 2))
    assert {fold.target_names for fold in folds} == {("t0", "t2")}
    assert "1 of 3 labels have fewer than 1 rows in some part of some fold" in folds[0].warnings[-1]
    for fold in folds:
        for split in SPLITS:
            part = fold.targets[fold.rows(split)]
            assert part.any(0).all()
            assert not part.all(0).any()
    with pytest.raises(InputError, match="labels have at least 1 rows"):
        drop_rare_in_folds(assign_folds(labels(rng, (2, 3)), 4, 2))


def test_few_rows_that_covjax_splits_are_advised_to_fold():
    config = CompareConfig(data="t.csv")
    assert "--folds 5 --repeats 3" in folds_note(config, 300, False)
    assert folds_note(config, 300, True) == folds_note(config, 1000, False) == ""


@pytest.mark.long
def test_null_intervals_with_the_penalty_chosen_inside_cover_0(rng):
    """Two feature sets of equal worth; in every fold the penalty is chosen on its own validation rows."""
    n, sets = 60, 60
    config = CompareConfig(data="t.csv", penalties=(1e-2, 1e-1, 1.0))
    ids = tuple(f"s{i}" for i in range(n))
    covered = 0
    for _ in range(sets):
        features = rng.normal(size=(2, n, 3)).astype(np.float32)
        y = 0.5 * features.sum((0, 2)) + rng.normal(size=n)
        folds = assign_folds(Dataset("t", "regression", ids, (), y[:, None], ("y",), ids, None, True), 5, 2)
        differences, ratios = [], []
        for fold in folds:
            train, test = fold.rows("train"), fold.rows("test")
            values = []
            for x in features:
                scores = fit_row(config, fold, ("ridge",), make_table(x, train))["ridge"].scores
                values.append(r2(y[test], scores[test, 0]))
            differences.append(values[0] - values[1])
            ratios.append(len(test) / len(train))
        low, high, _ = corrected_interval(differences, float(np.mean(ratios)))
        covered += low <= 0 <= high
    print(f"coverage {covered / sets:.3f} of {sets} data sets")
    assert 0.88 <= covered / sets <= 1


@pytest.mark.parametrize(("gib", "rows"), [(1.0, 2), (0.001, 1)])
@pytest.mark.parametrize("there", [1, 2, 3])  # as OMP_NUM_THREADS may say, whatever the cores
def test_rows_fitted_at_once_share_the_threads_of_linear_algebra(gib, rows, there):
    def threads():
        return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]

    with threadpool_limits(there, "blas"):
        before = threads()
        with two_threads(CompareConfig(max_memory_gib=gib), size=2**20) as pool:
            assert pool._max_workers == rows
            assert set(threads()) == {max(there // rows, 1)}
        assert threads() == before
