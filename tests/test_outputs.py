"""Several outputs of one regression: values, intervals and gains of each against plain NumPy, sorted, and reported."""

import numpy as np
import pytest

import covjax
from covjax.comparison.outputs import measure_outputs
from covjax.comparison.results import read_results
from covjax.metrics import r2, resample_counts


def plain_r2(truth, scores):
    return 1 - ((truth - scores) ** 2).sum(0) / ((truth - truth.mean(0)) ** 2).sum(0)


def test_values_and_intervals_against_repeated_rows(rng):
    groups = [f"g{i // 5}" for i in range(60)]
    counts = resample_counts(groups, 150, seed=1)
    truth = rng.normal(size=(60, 3))
    weak, strong = truth + rng.normal(size=(60, 3)) * [3, 1, 2], truth + rng.normal(size=(60, 3)) * [0.5, 1, 0.1]
    other = strong + 0.1 * rng.normal(size=(60, 3))
    names = [("target1", "Abf1"), ("target2", "Reb1"), ("target3", "Rap1")]
    outputs = measure_outputs(r2, truth, {"mean": [weak], "covariance": [strong, other]}, counts, names)
    both = (plain_r2(truth, strong) + plain_r2(truth, other)) / 2
    order = np.argsort(-both)
    assert [output.label for output in outputs] == [names[j][0] for j in order]
    assert [output.name for output in outputs] == [names[j][1] for j in order]
    rows = [np.repeat(np.arange(60), count) for count in counts]
    base = np.array([plain_r2(truth[i], weak[i]) for i in rows])
    high = np.array([(plain_r2(truth[i], strong[i]) + plain_r2(truth[i], other[i])) / 2 for i in rows])
    for output, j in zip(outputs, order):
        assert output.values == pytest.approx({"mean": plain_r2(truth, weak)[j], "covariance": both[j]})
        assert output.gain == pytest.approx(both[j] - plain_r2(truth, weak)[j])
        for draws, ends in (
            (base[:, j], output.intervals["mean"]),
            (high[:, j], output.intervals["covariance"]),
            ((high - base)[:, j], output.gain_interval),
        ):
            np.testing.assert_allclose(ends, np.quantile(draws, [0.025, 0.975]), atol=1e-9)


def test_an_output_of_one_group_has_no_interval(rng):
    """Where its group is not drawn, in two of three resamples here, it is constant."""
    truth = rng.normal(size=(40, 2))
    truth[10:, 1] = 0  # of one group in four
    counts = resample_counts([f"g{i // 10}" for i in range(40)], 300, seed=0)
    counts[:200, :10] = 0
    scores = truth + rng.normal(size=truth.shape)
    names = [("target1", "target1"), ("target2", "target2")]
    outputs = {each.label: each for each in measure_outputs(r2, truth, {"a": [scores], "b": [truth]}, counts, names)}
    assert outputs["target2"].intervals == {"a": None, "b": None}
    assert outputs["target2"].gain_interval is None
    assert outputs["target2"].values["b"] == 1
    assert outputs["target1"].gain_interval is not None


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two outputs, one a function of the tokens' variance, one of noise; and the first alone."""
    folder, rng, count = tmp_path_factory.mktemp("outputs"), np.random.default_rng(0), 150
    scale = rng.uniform(0.5, 2, count)
    tokens = {f"s{i}": (rng.normal(size=(60, 2)) * scale[i]).astype(np.float32) for i in range(count)}
    lines = ["id,group,targets", *(f"s{i},g{i % 50},{rng.normal():.4f};{scale[i] ** 2:.6f}" for i in range(count))]
    (folder / "two.csv").write_text("\n".join(lines) + "\n")
    (folder / "one.csv").write_text("\n".join(line.rpartition(";")[0] or line for line in lines) + "\n")
    (folder / "names.csv").write_text("label,name\ntarget1,noise\ntarget2,variance\n")
    options = {"rows": ["mean", "covariance", "mean_outer"], "resamples": 100, "ranks": [2]}
    two = covjax.compare(
        folder / "two.csv", activations=tokens, output=folder / "two", label_names=str(folder / "names.csv"), **options
    )
    one = covjax.compare(folder / "one.csv", activations=tokens, output=folder / "one", **options)
    return two, one


@pytest.mark.long
def test_a_comparison_has_its_outputs(runs):
    two, one = runs
    outputs = two.results.outputs
    assert [output.name for output in outputs] == ["variance", "noise"]
    assert list(outputs[0].values) == ["mean", "covariance", "mean_outer"]
    assert outputs[0].values["covariance"] > 0.7
    assert outputs[0].gain_interval[0] > 0
    for row, score in two.results.scores().items():  # the mean over outputs stays the primary value
        assert score.value == pytest.approx(np.mean([output.values[row] for output in outputs]))
    assert read_results(two.folder / "results.json").outputs == outputs
    assert one.results.outputs == ()
    assert '"outputs"' not in (one.folder / "results.json").read_text()


def test_the_report_shows_them_sorted(runs):
    page = (runs[0].folder / "report.html").read_text()
    table = page[page.index("<h2>By output</h2>") :]
    assert table.index("variance (target2)") < table.index("noise (target1)")
    assert "by its interval in 1 of 2 outputs" in table
    assert "output noise, the middle one by R²" in page
    assert "By output" not in (runs[1].folder / "report.html").read_text()
