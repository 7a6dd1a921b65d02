"""Mixtures: the choice against every mixture by hand, the model of one, its role; and the chain names its link."""

import dataclasses

import numpy as np
import pytest

import covjax
from covjax import Embedder, InputError
from covjax.comparison.chain import LINKS, carrier, chain_sentence
from covjax.comparison.config import CompareConfig
from covjax.comparison.mixtures import choose_shares, described, simplex
from covjax.comparison.model import Model
from covjax.comparison.results import Contrast, read_results
from covjax.data.dataset import Dataset
from covjax.embedding.tables import make_table, side_by_side
from covjax.jobs import checkpoint
from covjax.recipes import get_recipe, parts_of
from covjax.recipes.base import MIXTURE

PARTS = ["mean", "regional_mean", "sqrt_covariance", "log_covariance"]
CHAIN = [*PARTS, "mean_std", "power_means", "covariance", "mean_outer", "shuffled_covariance", "regional_covariance"]
OPTIONS = {"penalties": [1e-3, 1e-1, 1.0], "resamples": 200, "trained": [], "ranks": [], "probes": ["ridge"]}
TOKENS, FEATURES = 16, 6


def tokens_of(kind, labels, rng):
    """Tokens whose labels are in the position, the variance or the co-occurrence of features alone."""
    out = []
    for label in labels:
        x = rng.normal(size=(TOKENS, FEATURES))
        x -= x.mean(0)
        if "position" in kind:
            half = np.repeat([1.0, -1.0], TOKENS // 2)
            x[:, 0] += (2 * label - 1) * (0.3 if "variance" in kind else 1) * half
        if "variance" in kind:
            x[:, 4:] *= 1.0 + 0.3 * label
        if "co-occurrence" in kind:
            x /= np.sqrt((x**2).mean(0))
            x[:, 1] = (2 * label - 1) * 0.8 * x[:, 0] + 0.6 * x[:, 1]
        out.append(x.astype(np.float32))
    return out


def run(folder, kind="co-occurrence", rows=CHAIN, n=360, **options):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n)
    table = folder / "t.csv"
    splits = ["train"] * (n // 2) + ["validation"] * (n // 4) + ["test"] * (n // 4)
    lines = [f"s{i},{'ab'[label]},{split}" for i, (label, split) in enumerate(zip(labels, splits))]
    table.write_text("\n".join(["id,label,split", *lines]) + "\n")
    given = tokens_of(kind, labels, rng)
    result = covjax.compare(table, activations=given, output=folder / "run", **OPTIONS | {"rows": rows} | options)
    return result, given


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "link"), [("position", "position"), ("variance", "variance"), ("co-occurrence", "co-occurrence")]
)
def test_the_chain_names_the_link_that_carries_the_label(tmp_path, kind, link):
    results = run(tmp_path, kind)[0].results
    assert list(results.chain) == list(LINKS)
    assert carrier(results) == link
    assert results.chain[link].interval[0] > 0.2
    assert f"{link} carries the gain." in chain_sentence(results)
    assert chain_sentence(results) in covjax.comparison.verdict.verdict(results)
    scores = results.scores()
    last = list(results.chain.values())[-1].row
    total = scores[last].value - scores["mean"].value
    np.testing.assert_allclose(sum(step.value for step in results.chain.values()), total, atol=1e-12)
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"{link} (carries the gain)" in page
    assert read_results(tmp_path / "run" / "results.json") == results


def test_a_step_that_makes_good_a_step_down_carries_no_gain(tmp_path):
    results = run(tmp_path, rows=["mean", "regional_mean", "covariance", "mean_outer"], n=72)[0].results

    def row(name, ends):
        fit = results.by_label[name].probes["ridge"]
        score = dataclasses.replace(fit.test["mcc"], difference_interval=ends)
        fit = dataclasses.replace(fit, test=fit.test | {"mcc": score})
        return dataclasses.replace(results.by_label[name], probes={"ridge": fit})

    down = Contrast("regional_mean", "mean", -0.2, (-0.3, -0.1), 0.01)
    up = Contrast("covariance", "regional_mean", 0.2, (0.1, 0.3), 0.01)
    chain = {"position": down, "co-occurrence": up}
    for ends, link in (((-0.1, 0.1), ""), ((0.05, 0.2), "co-occurrence")):
        rows = (row("mean", (0.0, 0.0)), row("covariance", ends))
        made = dataclasses.replace(results, chain=chain, rows=rows)
        assert carrier(made) == link
        assert ("carries the gain" in chain_sentence(made)) == bool(link)


def data_of(n, rng):
    """Labels that two of three blocks know, half each."""
    splits = np.repeat(["train", "validation", "test"], n // 3)
    first, second, noise = (rng.normal(size=(n, k)).astype(np.float32) for k in (3, 4, 5))
    targets = (first[:, :1] + second[:, :1]).astype(np.float64)
    ids = tuple(f"s{i}" for i in range(n))
    data = Dataset("made up", "regression", ids, (), targets, ("y",), ids, splits, True)
    return data, [make_table(block, data.rows("train")) for block in (noise, first, second)]


def ridge_on_validation(data, tables, shares, penalties):
    """R² on validation of scikit-free ridge on columns scaled by the root of their share, best of the penalties."""
    train, validation = data.rows("train"), data.rows("validation")
    blocks = []
    for table, share in zip(tables, shares):
        x = table.values.astype(np.float64)
        x = x - x[train].mean(0)
        blocks.append(x / np.sqrt((x[train] ** 2).sum(1).mean()) * np.sqrt(share / sum(shares)))
    x, y = np.concatenate(blocks, axis=1), data.targets
    centre = y[train].mean(0)
    best = -np.inf
    for penalty in penalties:
        gram = x[train].T @ x[train] / len(train) + penalty * np.eye(x.shape[1])
        guess = x[validation] @ np.linalg.solve(gram, x[train].T @ (y[train] - centre) / len(train)) + centre
        rest = ((y[validation] - guess) ** 2).sum() / ((y[validation] - y[validation].mean(0)) ** 2).sum()
        best = max(best, 1 - rest)
    return best


def test_the_chosen_mixture_is_the_best_of_all_by_hand(rng):
    data, tables = data_of(120, rng)
    config = CompareConfig(data="t.csv", penalties=(0.1, 1.0))
    every = {shares: ridge_on_validation(data, tables, shares, config.penalties) for shares in simplex(3, 4)}
    chosen = choose_shares(tables, 4, data, config)
    assert chosen == max(every, key=lambda shares: every[shares])
    assert chosen[0] <= 1  # noise
    assert len(every) == 15
    assert list(every)[:3] == [(4, 0, 0), (0, 4, 0), (0, 0, 4)]


def test_a_block_that_does_not_vary_gets_no_share_and_ties_go_to_fewer_blocks(rng):
    data, tables = data_of(60, rng)
    constant = make_table(np.ones((60, 2), np.float32), data.rows("train"))
    config = CompareConfig(data="t.csv", penalties=(0.1, 1.0))
    assert choose_shares([constant, tables[1], tables[1]], 4, data, config) == (0, 4, 0)
    assert choose_shares([constant, constant, constant], 4, data, config) == (4, 0, 0)


def test_shares_weigh_the_kernel_of_every_block(rng):
    data, tables = data_of(60, rng)
    train = data.rows("train")
    joint = side_by_side(tables, train, [0.5, 0.25, 0.25]).values.astype(np.float64)
    norms = [(joint[train][:, part] ** 2).sum(1).mean() for part in (slice(0, 5), slice(5, 8), slice(8, 12))]
    np.testing.assert_allclose(norms, [0.5, 0.25, 0.25], rtol=1e-5)


@pytest.fixture(scope="module", params=["features", "kernel"])
def mixed(request, tmp_path_factory):
    """A comparison with the mixture and its components, with narrow tables or all as kernels."""
    patch = pytest.MonkeyPatch()
    if request.param == "kernel":
        patch.setattr("covjax.embedding.tables.WIDE", 4)
    patch.setattr("covjax.recipes.mixtures.WIDE", 4)
    rows = [*PARTS, "auto", "auto_3_components"]
    done = run(tmp_path_factory.mktemp("mixed"), "position and variance", rows, n=72, components=[3])
    yield done
    patch.undo()


def test_a_mixture_is_no_second_order_row_and_its_shares_are_told(mixed):
    results = mixed[0].results
    row = results.by_label["auto"]
    shares = checkpoint.read_manifest(mixed[0].folder / "features" / "auto")["shares"]
    assert sum(shares) == 4
    assert row.role == MIXTURE
    assert row.title == f"auto: {described(PARTS, shares)}"
    assert row.num_features == sum(results.by_label[p].num_features for p, share in zip(PARTS, shares) if share)
    assert results.by_label["auto_3_components"].num_features == 3
    assert results.best_second_order in ("sqrt_covariance", "log_covariance")
    assert not {contrast.row for contrast in results.contrasts.values()} & {"auto", "auto_3_components"}


@pytest.mark.parametrize("name", ["auto", "auto_3_components"])
def test_the_model_of_a_mixture_predicts_what_the_comparison_did(mixed, name, tmp_path, monkeypatch):
    result, given = mixed
    monkeypatch.setattr("covjax.comparison.results.Results.winner", property(lambda results: name))
    config = result.results.manifest["config"]
    rows = [*PARTS, "auto", "auto_3_components"]
    run(tmp_path, "position and variance", rows, n=72, components=[3])
    assert config["rows"] == rows
    model = Model.load(tmp_path / "run" / "model")
    assert model.embedder.recipe == name
    lines = (tmp_path / "run" / "predictions.csv").read_text().splitlines()[1:]
    assert list(model.predict(given)) == [line.split(",")[3] for line in lines]
    x = model.embedder.transform(given)
    assert x.shape == (len(given), result.results.by_label[name].num_features)
    if name == "auto":
        train = x[: len(given) // 2].astype(np.float64)
        np.testing.assert_allclose(((train - train.mean(0)) ** 2).sum(1).mean(), 1, rtol=1e-4)


def test_the_winner_is_a_mixture_only_above_second_order_on_validation(mixed):
    results = mixed[0].results
    validation = {row.label: row.probes["ridge"].validation for row in results.rows}
    mixtures = ("auto", "auto_3_components")
    above = max(validation[name] for name in mixtures) > validation[results.best_second_order]
    assert (results.winner in mixtures) == above
    assert (f"The model is {results.winner}" in mixed[0].verdict) == above


def test_a_mixture_needs_labels_and_its_parts(tmp_path):
    with pytest.raises(InputError, match="the shares of 'auto' are chosen on labels; take it from a comparison"):
        Embedder(recipe="auto").fit([np.ones((3, 4), np.float32)])
    with pytest.raises(InputError, match="rows: 'auto' needs 'regional_mean' too"):
        run(tmp_path, rows=["mean", "auto"], n=72)
    *parts, recipe = get_recipe("auto_7_components")
    assert [part.name for part in parts] == [*PARTS, "auto"]
    assert parts_of(recipe) == ("auto",)
