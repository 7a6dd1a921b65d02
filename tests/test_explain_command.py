"""`covjax explain`: a small real run from table to page, the tests of its contributions, and every kind of mistake."""

import csv
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

import covjax
from covjax import InputError
from covjax.command import main
from covjax.comparison.model import Model
from covjax.embedder import Embedder
from covjax.encoders import from_function, register_encoder
from covjax.encoders.unirep import UniRep
from covjax.explanation.command import PAGE
from covjax.explanation.evidence import deletion_test, direction_letters, matches, pattern_test, token_texts
from covjax.explanation.explain import explain
from covjax.explanation.latents import term_name
from covjax.explanation.pictures import coloured, draw_letters
from covjax.probes import LinearProbe
from tests.browser import measures, overlaps, printed
from tests.test_explanation import make_model, plain_latents, sparse_model
from tests.test_unirep import random_weights

register_encoder("explain-unirep", lambda dtype: UniRep(random_weights()))
TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(30, 8)), jnp.float32)
PAIRS = from_function(  # a token for every two letters
    "explain-pairs",
    lambda tokens, mask: TABLE[tokens],
    lambda text: [1 + ord(text[i]) % 29 for i in range(0, len(text), 2)],
)
register_encoder("explain-pairs", lambda dtype: PAIRS)


def write_table(path, n=60):
    """Protein-like sequences of 40 letters; those labelled `motif` hold CWCWC, the others never C or W."""
    random = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", "label", "split"])
        for i in range(n):
            letters = "".join(random.choice(list("AGKLSTEV"), 40))
            if label := i % 2:
                place = int(random.integers(2, 33))
                letters = letters[:place] + "CWCWC" + letters[place + 5 :]
            split = ("train", "validation", "test", "test")[i // 2 % 4]
            writer.writerow([f"p{i}", letters, ("plain", "motif")[label], split])
    return path


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A table, a model of it with the predictions of a comparison beside it, and the page of both."""
    folder = tmp_path_factory.mktemp("explain")
    rows = read(write_table(folder / "t.csv"))
    sequences = [row["sequence"] for row in rows]
    embedder = Embedder("explain-unirep", "covariance").fit(
        [row["sequence"] for row in rows if row["split"] == "train"]
    )
    vectors = embedder.transform(sequences).astype(np.float64)
    has = np.array([[row["label"] == name for name in ("motif", "plain")] for row in rows], float)
    centred = vectors - vectors.mean(0)
    weights = np.linalg.solve(centred.T @ centred + 0.1 * np.eye(centred.shape[1]), centred.T @ has)
    probe = LinearProbe(weights, has.mean(0) - vectors.mean(0) @ weights)
    model = Model(embedder, probe, "ridge", "multiclass", ("motif", "plain"))
    model.save(folder / "run" / "model")
    with (folder / "run" / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split", "truth", "prediction"])
        predictions = model.decide(probe.scores(vectors))
        writer.writerows([row["id"], row["split"], row["label"], p] for row, p in zip(rows, predictions))
    argv = [str(folder / "run" / "model"), "--data", str(folder / "t.csv"), "--pattern", "CWCWC", "--resamples", "100"]
    assert main(["explain", *argv, "--output", str(folder / "out")]) == 0
    return folder


@pytest.mark.long
def test_a_comparison_is_explained(tmp_path, capsys):
    """A small real run, from the table to the page."""
    table, output = write_table(tmp_path / "t.csv"), tmp_path / "run"
    options = {"rows": ["mean", "covariance", "mean_outer"], "penalties": [1e-4, 1e-2], "resamples": 100}
    result = covjax.compare(table, output=output, encoder="unirep-64", probes=["ridge"], **options)
    argv = [str(output / "model"), "--data", str(table), "--output", str(tmp_path / "out"), "--resamples", "100"]
    assert main(["explain", *argv]) == 0
    assert "plain: The differences between the scores of 28 sequences are" in capsys.readouterr().out
    explained = covjax.explain(result.best(), [row["sequence"] for row in read(table)])
    sums = np.stack([each.sum(0) for each in explained.contributions])
    np.testing.assert_allclose(explained.bias + sums, explained.scores, atol=1e-5)
    predicted = np.array(explained.labels)[explained.scores.argmax(1)]
    written = [row["prediction"] for row in read(output / "predictions.csv")]
    assert np.mean(predicted == np.array(written)) > 0.95


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        main(["explain", *map(str, argv)])
    assert caught.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("covjax explain: error: ")
    return error


@pytest.mark.long
def test_the_page_needs_no_network_and_says_what_there_is(run):
    page = (run / "out" / "explanation.html").read_text()
    assert not re.search(r"<script|<link|<img|@import|(?:src|href)=[\"']?(?!#)[\w./]", page)
    assert page.count("<h2>") == 3
    assert "<h2>motif</h2>" in page
    assert "Explained: all 28 test sequences." in page
    assert "Masking the 5 % of tokens that add most lowers the score by" in page
    assert "sequences have a match of CWCWC. The token that adds most is in the match in" in page
    assert "<u>" in page
    assert re.search(r"class='[pn]4'", page)
    assert page.count("<svg") == 4
    ids = re.findall(r"id=\"([^\"]+)\"", page)
    assert len(ids) == len(set(ids))


def test_the_page_fits_a_phone_a_screen_and_paper(run, tmp_path):
    text = (run / "out" / PAGE).read_text(encoding="utf-8")
    for key, page in measures({"explain": text}, (390, 1280), tmp_path).items():
        assert page["scroll"] <= page["width"] == key[1], key
        assert len(page["figures"]) == 4
        assert all(overlaps(figure["texts"]) == [] for figure in page["figures"]), key
    assert 2 <= printed(text, tmp_path) <= 12


def test_the_arrays_sum_to_the_models_scores(run):
    with np.load(run / "out" / "explanation.npz", allow_pickle=False) as arrays:
        ends = np.cumsum(arrays["lengths"])
        sums = np.stack([part.sum((0, 2)) for part in np.split(arrays["contributions"], ends[:-1])])
        np.testing.assert_allclose(arrays["bias"] + sums, arrays["scores"], atol=1e-5)
        ids, scores, labels = arrays["ids"].tolist(), arrays["scores"], arrays["labels"].tolist()
    rows = {row["id"]: row for row in read(run / "t.csv")}
    assert [rows[name]["split"] for name in ids] == ["test"] * 28
    model = Model.load(run / "run" / "model")
    assert labels == list(model.labels)
    vectors = model.embedder.transform([rows[name]["sequence"] for name in ids])
    np.testing.assert_allclose(scores, model.probe.scores(vectors), rtol=1e-4, atol=1e-3)


def test_a_file_of_new_sequences_is_explained_whole(run, capsys, tmp_path):
    (tmp_path / "new.fasta").write_text("".join(f">n{i}\n{'ACDEFGHIKLMNPQRSTVWY'[i:]}\n" for i in range(5)))
    model, out = run / "run" / "model", tmp_path / "out"
    argv = [model, tmp_path / "new.fasta", "--output", out, "--labels", "motif", "--sequences", "4", "--quiet"]
    assert main(["explain", *map(str, argv)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("motif: The differences between the scores of 4 sequences are ")
    assert lines[-1] == f"page: {out / 'explanation.html'}"
    page = (out / "explanation.html").read_text()
    assert f"Explained: 4 drawn of 5 sequences of {tmp_path / 'new.fasta'}." in page
    assert "by position" not in page
    assert "<h2>plain</h2>" not in page


@pytest.mark.long
def test_latents_have_their_pairs_and_contexts_on_the_page(run, tmp_path, capsys):
    rows = read(run / "t.csv")
    embedder = Embedder("explain-unirep", "covariance").fit([row["sequence"] for row in rows[:10]])
    model = sparse_model("sae_cooccurrence", embedder, labels=("motif", "plain"), task="multiclass")
    model.save(tmp_path / "model")
    out = tmp_path / "out"
    assert (
        main(["explain", str(tmp_path / "model"), str(run / "t.csv"), "--output", str(out), "--sequences", "20"]) == 0
    )
    page = (out / "explanation.html").read_text()
    text = capsys.readouterr().out
    with np.load(out / "explanation.npz", allow_pickle=False) as arrays:
        pairs, weights = arrays["sae_cooccurrence_latents"], arrays["sae_cooccurrence_weights"]
        terms = arrays["sae_cooccurrence_moments"] * weights[0]
        ids, scores = arrays["ids"].tolist(), arrays["scores"][:, 0]
        np.testing.assert_allclose(arrays["bias"][0] + terms.sum(1), scores, atol=1e-5)
    deviation = scores - scores.mean()
    first = np.argmax(np.abs(deviation @ (terms - terms.mean(0))))
    name = term_name([int(each) for each in pairs[first]])
    assert "motif: The differences between the scores of 20 sequences are" in text
    assert f"Latents with the largest shares (mean): {name}: {terms[:, first].mean():+.3f}, " in text
    assert page.count("<h2>") == 4
    latent = int(pairs[first][0])
    sequences = {row["id"]: row["sequence"] for row in rows}
    z = embedder.tokens([sequences[name] for name in ids])
    peaks = {}
    for batch in z.walk("test"):
        for place, row in enumerate(batch.rows):
            peaks[ids[row]] = plain_latents(model, np.asarray(batch.tokens[place])[batch.weights[place] > 0])[:, latent]
    top = max(peaks, key=lambda name: peaks[name].max())
    section = page.split(f"<h3 id='latent-{latent}'>")[1]
    assert f"{top}, token {peaks[top].argmax() + 1}: {peaks[top].max():.3f}" in section.split("</p>")[0]


@pytest.mark.parametrize(
    ("encoder", "pattern", "note"), [("explain-pairs", "C", True), ("explain-unirep", "WWWW", False)]
)
def test_a_pattern_that_cannot_be_tested_is_said_to_be_so(run, tmp_path, capsys, encoder, pattern, note):
    rows = read(run / "t.csv")
    embedder = Embedder(encoder, "covariance").fit([row["sequence"] for row in rows[:10]])
    size = embedder.transform([rows[0]["sequence"]]).shape[1]
    probe = LinearProbe(np.random.default_rng(0).normal(size=(size, 2)), np.zeros(2))
    Model(embedder, probe, "ridge", "multiclass", ("motif", "plain")).save(tmp_path / "model")
    argv = [tmp_path / "model", run / "t.csv", "--output", tmp_path / "out", "--pattern", pattern, "--resamples", "100"]
    assert main(["explain", *map(str, argv)]) == 0
    said = f"{pattern} is not tested: that needs two sequences with a match and a token for every letter."
    assert capsys.readouterr().out.count(said) == 2  # the labels
    page = (tmp_path / "out" / PAGE).read_text()
    assert page.count(said) == 2
    assert (f"{pattern} is not tested: explain-pairs does not have one token for every letter." in page) == note


def test_a_model_of_folds_has_no_split(run, tmp_path):
    shutil.copytree(run / "run" / "model", tmp_path / "model")
    header, row = "id,repeat,fold,truth,prediction,prediction_of_mean", "n0,1,1,plain,motif,motif"
    (tmp_path / "predictions.csv").write_text(f"{header}\n{row}\n")
    (tmp_path / "new.fasta").write_text("".join(f">n{i}\n{'ACDEFGHIKLMNPQRSTVWY'[i:]}\n" for i in range(3)))
    argv = [tmp_path / "model", tmp_path / "new.fasta", "--output", tmp_path / "out", "--quiet"]
    assert main(["explain", *map(str, argv)]) == 0
    assert "No predictions.csv with a split" in (tmp_path / "out" / "explanation.html").read_text()


def test_mistakes_are_named(run, capsys, tmp_path):
    model, table, out = run / "run" / "model", run / "t.csv", run / "out"
    assert "model: none is named" in refused(capsys)
    assert "data: none is named" in refused(capsys, model)
    assert "explanation.html is there already" in refused(capsys, model, table, "--output", out)
    new = ["--output", tmp_path / "new"]
    assert "no model is saved there" in refused(capsys, run, table, *new)
    assert "labels: 'x' is none of the model's: 'motif, plain'" in refused(capsys, model, table, *new, "--labels", "x")
    assert "pattern: '[A' is not a regular expression" in refused(capsys, model, table, *new, "--pattern", "[A")
    (tmp_path / "one.fasta").write_text(">a\nMKV\n")
    assert "data: 1 sequence to explain; at least 2" in refused(capsys, model, tmp_path / "one.fasta", *new)
    lines = table.read_text().splitlines()
    swapped = lines[:1] + [f"{a.split(',')[0]},{b.split(',', 1)[1]}" for a, b in zip(lines[1:], [*lines[2:], lines[1]])]
    (tmp_path / "other.csv").write_text("\n".join(swapped))
    error = refused(capsys, model, tmp_path / "other.csv", *new)
    assert "has ids of the comparison's predictions.csv, but for" in error
    assert not (tmp_path / "new").exists()


def test_a_recipe_that_cannot_be_explained_is_refused_before_the_encoder_runs(run, capsys, tmp_path):
    embedder = Embedder("explain-unirep", "max").fit(["MKV", "ACD"])
    Model(embedder, LinearProbe(np.ones((8, 1)), np.zeros(1)), "ridge", "regression", ("y",)).save(tmp_path / "max")
    error = refused(capsys, tmp_path / "max", run / "t.csv", "--output", tmp_path / "out")
    assert "recipe 'max' cannot be explained: max is not a function of the mean and the second moment" in error
    assert "compare with --rows of mean, " in error


@pytest.fixture(scope="module")
def spiked():
    """Twenty sequences of noise with one token far along feature 0, which the probe alone looks at."""
    random = np.random.default_rng(0)
    arrays = [random.normal(size=(20, 4)).astype(np.float32) for _ in range(20)]
    places = random.integers(0, 20, 20)
    for x, place in zip(arrays, places):
        x[place, 0] += 8
    model = make_model("covariance", arrays, outputs=1)
    weights = np.zeros((10, 1))
    weights[0] = 1
    return arrays, places, Model(model.embedder, LinearProbe(weights, np.zeros(1)), "ridge", "regression", ("y",))


def test_masking_the_top_token_drops_the_score_more_than_masking_any(spiked):
    arrays, places, model = spiked
    tokens = model.embedder.tokens(arrays)
    explained = explain(model, tokens)
    assert [int(np.argmax(each[:, 0])) for each in explained.contributions] == places.tolist()
    (test,) = deletion_test(model.embedder.fitted_, tokens, explained, resamples=200)
    top = [
        explained.scores[i, 0] - explain(model, [np.delete(x, places[i], 0)]).scores[0, 0] for i, x in enumerate(arrays)
    ]
    np.testing.assert_allclose(test.value, np.mean(top), rtol=1e-9)
    assert test.sequences == 20
    assert test.difference == pytest.approx(test.value - test.chance)
    assert 0 < test.interval[0] < test.difference < test.interval[1]
    assert deletion_test(model.embedder.fitted_, model.embedder.tokens(arrays[:1]), explain(model, arrays[:1])) == [
        None
    ]


def test_top_tokens_are_found_in_matches_and_letters_along_directions(spiked):
    arrays, places, model = spiked
    tokens = model.embedder.tokens(arrays)
    explained = explain(model, tokens)
    texts = ["A" * place + "C" + "A" * (19 - place) for place in places]
    test = pattern_test("C", texts, explained, 0, range(20), resamples=100)
    assert (test.top.value, test.top.chance, test.top.sequences) == (1, pytest.approx(0.05), 20)
    assert test.enrichment == pytest.approx(20)  # one of twenty tokens, always that one
    assert test.interval == pytest.approx((20, 20))
    texts[0] = "C" + "A" * 19 if places[0] else "AC" + "A" * 18
    test = pattern_test("C", texts, explained, 0, range(20), 0.1, resamples=100)
    order = [np.argsort(-each[:, 0])[:2] for each in explained.contributions]
    shares = [np.mean([text[place] == "C" for place in pair]) for text, pair in zip(texts, order)]
    assert test.enrichment == pytest.approx(np.mean(shares) / 0.05)
    assert test.interval[0] < test.enrichment <= test.interval[1]
    assert pattern_test("W", texts, explained, 0, range(20)) is None
    (direction,) = explained.directions(0, 1)
    ((first, second),) = direction_letters(model.embedder.fitted_, tokens, explained, [direction], texts)
    assert first[0] == "C"
    assert first[1] > 5
    assert second[0] == "A"
    assert second[1] < 1


def test_matches_overlap_and_letters_share_a_colour():
    np.testing.assert_array_equal(matches("AxA", "xAxAxA"), [0, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(matches("axa", "AXA"), [1, 1, 1])
    with pytest.raises(InputError, match="pattern: .* is not a regular expression"):
        matches("(", "A")
    page = coloured("AB<D", np.array([1.0, 0.9, 0, -0.1]), 1.0, "")
    assert page == (
        "<p class='letters'><i class='p4' title='1 to 2: +1.9'>AB</i>&lt;<i class='n1' title='4: -0.1'>D</i></p>"
    )
    assert "<i class='p4' title='2: +1'>cats</i>" in coloured(["two", "cats"], np.array([0.0, 1.0]), 1.0, "")


def test_bases_are_as_high_as_they_contribute():
    values = np.zeros(100)
    values[[3, 60, 61, 70]] = 0.9, -1, 0.5, 0.25
    picture = draw_letters([("s", "A" * 60 + "CGAAAAAAAAT" + "A" * 29, values), ("r", "NA", np.array([0.5, 0]))])
    assert "s, positions 41 to 81" in picture
    letters = re.findall(r"scale\(1 ([\d.]+)\)' y='([\d.]+)' fill='(#\w+)' class='base'>(\w)<", picture)
    heights = [float(height) / float(letters[0][0]) for height, *_ in letters]
    np.testing.assert_allclose(heights, [1, 0.5, 0.25, 0.5], atol=1e-3)
    assert [(y, letter) for _, y, _, letter in letters] == [("7.3", "C"), ("0", "G"), ("0", "T"), ("0", "N")]
    assert letters[3][2] == "#777"


def test_tokens_have_letters_words_or_numbers():
    encoder = Embedder("explain-unirep").load_encoder()
    assert token_texts(encoder, "MKV", 3) == ["M", "K", "V"]
    assert token_texts(encoder, "MKVA", 2) == ["1", "2"]
