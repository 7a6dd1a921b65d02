"""`--distractors`: the test set again with tokens of other sequences behind each of its own."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

import covjax
from covjax import InputError, metrics
from covjax.activations import ArrayTokens
from covjax.activations.distractors import DistractedTokens, foreign_count
from covjax.comparison.distractors import split_name
from covjax.comparison.report import main_rows
from covjax.comparison.sections import distractor_section
from tests.encoders.folders import write_bert

SHARES = (0.5, 0.9)
OPTIONS = {"penalties": [1e-3, 1e-1], "resamples": 100, "rows": ["mean", "covariance"], "trained": []}


@pytest.fixture(scope="module")
def arrays():
    """Two classes that differ in which of two features goes with a third; every sequence has its own length."""
    random = np.random.default_rng(0)
    out = []
    for i in range(90):
        x = random.standard_normal((random.integers(20, 41), 6))
        x[:, 1 + i % 2] += 1.5 * x[:, 0]
        out.append(x.astype(np.float32))
    return out


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("distractors") / "t.csv"
    split = ["train"] * 50 + ["validation"] * 16 + ["test"] * 24
    rows = [f"s{i},{'ab'[i % 2]},{part},g{i // 2 + 100 if i >= 66 else i}" for i, part in enumerate(split)]
    path.write_text("\n".join(["id,label,split,group", *rows]) + "\n")
    return path


def compare(table, arrays, folder, **options):
    return covjax.compare(table, activations=arrays, output=folder, **OPTIONS | options)


@pytest.fixture(scope="module")
def run(table, arrays, tmp_path_factory):
    return compare(table, arrays, tmp_path_factory.mktemp("run") / "out", distractors=SHARES)


def tokens(arrays, rows, groups, shares=SHARES):
    return DistractedTokens(ArrayTokens(arrays), np.array(rows), groups, shares)


def test_foreign_tokens_are_the_share_asked_for_and_of_no_sequence_of_the_group(arrays):
    groups = [str(i // 2) for i in range(len(arrays))]
    rows = [10, 11, 20, 31, 44]
    both = tokens(arrays, rows, groups)
    owner = {x.tobytes(): i for i, array in enumerate(arrays) for x in array}
    assert len(both) == len(arrays) + len(SHARES) * len(rows)
    before = {}
    for i, share in enumerate(SHARES):
        for j, row in enumerate(rows):
            (x,) = both.kept(np.array([len(arrays) + i * len(rows) + j]))
            own, foreign = x[: len(arrays[row])], x[len(arrays[row]) :]
            np.testing.assert_array_equal(own, arrays[row])
            assert len(foreign) == round(len(own) * share / (1 - share))
            assert abs(len(foreign) / len(x) - share) < 0.02
            givers = {owner[token.tobytes()] for token in foreign}
            assert givers <= set(rows)
            assert groups[row] not in {groups[giver] for giver in givers}
            np.testing.assert_array_equal(foreign[: len(before.get(row, []))], before.get(row, foreign[:0]))
            before[row] = foreign  # a larger share goes on where the smaller one ended


def test_a_walk_gives_the_source_its_own_batches_and_every_added_row_once(arrays):
    both, plain = tokens(arrays, [3, 8, 9], [str(i) for i in range(len(arrays))]), ArrayTokens(arrays)
    batches = list(both.walk("test"))
    for batch, other in zip(batches, plain.walk("test")):
        np.testing.assert_array_equal(batch.rows, other.rows)
        np.testing.assert_array_equal(batch.tokens, other.tokens)
    rows = np.concatenate([batch.rows for batch in batches])
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(arrays) + 6))
    for batch in batches:
        for place, row in enumerate(batch.rows):
            own = batch.tokens[place][batch.weights[place] > 0]
            np.testing.assert_array_equal(own, both.kept(np.array([row]))[0])


@pytest.mark.long
def test_other_numbers_are_those_of_a_run_without(run, table, arrays, tmp_path):
    plain = compare(table, arrays, tmp_path / "plain")
    assert plain.results.rows == run.results.rows
    assert plain.results.contrasts == run.results.contrasts
    assert plain.results.distractors == ()
    assert (plain.folder / "predictions.csv").read_text() == (run.folder / "predictions.csv").read_text()


@pytest.mark.long
@pytest.mark.parametrize("place", range(len(SHARES)))
def test_values_are_those_of_the_model_on_the_mixed_tokens(run, arrays, place):
    winner = run.best()
    assert run.results.winner == "covariance"
    groups = [f"g{i // 2 + 100 if i >= 66 else i}" for i in range(90)]
    test = list(range(66, 90))
    mixed = tokens(arrays, test, groups).kept(np.arange(90 + place * 24, 90 + (place + 1) * 24))
    truth = np.eye(2, dtype=bool)[[i % 2 for i in test]]
    value = metrics.matthews(truth, winner.scores(mixed))
    row = run.results.distractors[place]
    assert row.share == SHARES[place]
    assert row.scores["covariance"].value == pytest.approx(float(value), abs=1e-12)
    gap = row.scores["covariance"].value - row.scores["mean"].value
    assert row.scores["covariance"].difference == pytest.approx(gap, abs=1e-12)


@pytest.mark.long
def test_a_special_token_of_the_model_has_no_share(tmp_path, rng):
    (tmp_path / "encoder").mkdir()
    write_bert(tmp_path / "encoder", rng)
    sequences = ["".join(rng.choice(list("MKAC"), rng.integers(8, 20))) for _ in range(60)]
    split = ["train"] * 30 + ["validation"] * 15 + ["test"] * 15
    rows = [f"{sequence},{'xy'[i % 2]},{part}" for i, (sequence, part) in enumerate(zip(sequences, split))]
    (tmp_path / "t.csv").write_text("\n".join(["sequence,label,split", *rows]) + "\n")
    options = OPTIONS | {
        "rows": ["mean", "cls", "covariance"],
        "encoder": str(tmp_path / "encoder"),
        "probes": ["ridge"],
    }
    result = covjax.compare(tmp_path / "t.csv", output=tmp_path / "run", distractors=(0.5,), **options)
    assert "cls" in result.results.by_label
    assert list(result.results.distractors[0].scores) == ["mean", "covariance"]


def test_foreign_tokens_cost_what_the_pool_knew(run):
    alone = run.results.scores()["covariance"].value
    half, nine = (each.scores["covariance"].value for each in run.results.distractors)
    assert alone > 0.8
    assert nine < half < alone


def test_the_report_shows_every_share(run):
    page = (run.folder / "report.html").read_text()
    assert "With tokens of other sequences" in page
    assert "50% foreign" in page
    assert "90% foreign" in page
    results = dataclasses.replace(
        run.results,
        distractors=tuple(dataclasses.replace(run.results.distractors[0], share=share) for share in (0.995, 0.999)),
    )
    (section,) = distractor_section(results, main_rows(results))
    assert "99.5% foreign" in section
    assert "99.9% foreign" in section


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"distractors": (1.0,)}, "distractors: .*numbers between 0 and 1"),
        ({"distractors": (0.5, 0.5)}, "distractors: .*distinct"),
        (
            {"distractors": (0.5, 1 - 1e-9)},
            r"at a share of 0.999999999 the longest .* has [0-9,]+ tokens .* give a smaller",
        ),
        ({"distractors": (0.5,), "folds": 3}, "distractors: .*leave --folds out"),
        ({"distractors": (0.5,), "protocol": "retrieval"}, "distractors: .*leave --protocol retrieval out"),
    ],
)
def test_what_cannot_be_asked_for_is_said(table, arrays, tmp_path, options, text):
    with pytest.raises(InputError, match=text):
        compare(table, arrays, tmp_path / "run", **options)


def test_one_group_has_no_tokens_of_others(arrays):
    with pytest.raises(InputError, match="of one group"):
        tokens(arrays, [1, 2], ["same"] * len(arrays))


def test_many_test_sequences_take_no_square_of_numbers():
    count = 3000
    source, groups = ArrayTokens([np.ones((1, 1), np.float32)] * count), [str(i) for i in range(count)]
    tracemalloc.start()
    both = DistractedTokens(source, np.arange(count), groups, SHARES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * count**2  # the orders of all take 8
    assert len(both) == 3 * count


def test_names_and_counts():
    assert split_name(0.5) == "distractors 0.5"
    assert split_name(0.12345678) != split_name(0.12345679)
    assert [foreign_count(10, share) for share in (0.5, 0.75, 0.9)] == [10, 30, 90]
