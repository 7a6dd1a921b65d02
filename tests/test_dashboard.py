"""Dashboards of autoencoders: every figure against dense float64 references, files, and every kind of mistake."""

import base64
import csv
import dataclasses
import gzip
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

import covjax
from covjax import InputError
from covjax.autoencoders import make_autoencoder, save_autoencoder
from covjax.autoencoders.stability import matched_cosines
from covjax.command import main
from covjax.dashboards import codes as encoding
from covjax.dashboards import relations
from covjax.dashboards.codes import choose_sequences, encode_store
from covjax.dashboards.command import write_dashboard
from covjax.dashboards.latents import BANDS, BINS, EACH, TOP, context_windows, describe_latents
from covjax.dashboards.logits import Logits, class_names, logit_effects
from covjax.data.store import TokenStore
from covjax.encoders import from_function, register_encoder
from covjax.encoders.unirep import LETTERS, UniRep
from covjax.extraction.config import ExtractConfig
from covjax.extraction.extract import extract
from tests import browser
from tests.test_unirep import random_weights

D, M, K = 6, 24, 3
TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(5, D)), jnp.float32)


def _toy(dtype):
    """Every letter's row of a table, and a part of the letter before."""

    def function(tokens, mask):
        x = jnp.where(mask[:, None], TABLE[tokens].astype(dtype), 0)
        return x + 0.4 * jnp.roll(x, 1, 0)

    return from_function("toy", function, {"A": 1, "C": 2, "G": 3, "T": 4})


register_encoder("dashboard-toy", _toy)


def save(path, kind="topk", seed=0, **options):
    options = {"latents": M, **({"k": K} if kind == "topk" else {}), **options}
    save_autoencoder(path, make_autoencoder(kind, D, seed=seed, **options), kind, D, options)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store of 40 sequences, three autoencoders, labels, annotations, and the dashboard of all of them."""
    folder = tmp_path_factory.mktemp("dashboard")
    rng = np.random.default_rng(1)
    sequences = ["".join(rng.choice(list("ACGT"), n)) for n in rng.integers(5, 50, 40)]
    sequences = [s.replace("G", "C") if row % 2 else s for row, s in enumerate(sequences)]  # odd rows have no G
    (folder / "x.fasta").write_text("".join(f">s{i}\n{s}\n" for i, s in enumerate(sequences)))
    config = ExtractConfig(data=str(folder / "x.fasta"), output=str(folder / "store"), encoder="dashboard-toy")
    extract(ExtractConfig(**{**vars(config), "poolers": (), "keep_tokens": True, "layers": (-1,)}))
    for seed in range(3):
        save(folder / f"sae{seed}", seed=seed)
    with (folder / "t.csv").open("w", newline="") as file:
        rows = [[f"s{i}", "odd" if i % 2 else "even"] for i in range(38)]
        csv.writer(file).writerows([["id", "label"], *rows])
    stretches = [(i, m.start(), m.end()) for i, s in enumerate(sequences) for m in re.finditer("C", s)]
    (folder / "c.bed").write_text("".join(f"s{i}\t{a}\t{b}\tC\n" for i, a, b in stretches))
    argv = [str(folder / "sae0"), "--store", str(folder / "store"), "--labels", str(folder / "t.csv")]
    argv += ["--annotations", str(folder / "c.bed"), "--compare", str(folder / "sae1"), str(folder / "sae2")]
    assert main(["dashboard", *argv, "--reach", "4", "--output", str(folder / "out")]) == 0
    return folder


@pytest.fixture(scope="module")
def dense(folder):
    """The store's tokens through the first autoencoder, with their zeros, and the sequences' first tokens."""
    store = TokenStore(folder / "store", -1)
    module = covjax.autoencoders.load(folder / "sae0")
    tokens = np.concatenate(store.__getitems__(range(40))).astype(np.float32)
    return np.asarray(module.encode(tokens)), np.concatenate([[0], np.cumsum(store.lengths)])


@pytest.fixture(scope="module")
def records(folder):
    return [json.loads(line) for line in (folder / "out" / "latents.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_codes_are_those_of_encode(kind, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "TOGETHER", 100)
    monkeypatch.setattr(encoding, "BLOCK", 64)
    module = covjax.autoencoders.load(save(tmp_path / "sae", kind))
    store = TokenStore(folder / "store", -1)
    rows = np.array([1, 2, 5, 30, 31, 39])
    tokens = np.concatenate(store.__getitems__(rows.tolist())).astype(np.float32)
    corpus, codes = encode_store(module, store, rows)
    np.testing.assert_allclose(codes.toarray(), np.asarray(module.encode(tokens)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(corpus.mean, tokens.astype(np.float64).mean(0), rtol=1e-6)
    assert corpus.ids == [f"s{row}" for row in rows]
    assert corpus.starts[-1] == len(tokens)
    monkeypatch.setattr(encoding, "MOST_CODES", 3)
    with pytest.raises(InputError, match="over 3 active latents in the first .* --tokens"):
        encode_store(module, store, rows)


def test_random_sequences_stay_below_the_tokens_asked_for():
    lengths = np.array([5, 3, 8, 2, 4])
    assert choose_sequences(lengths, 22, 0).tolist() == [0, 1, 2, 3, 4]
    chosen = choose_sequences(lengths, 11, 0)
    assert 0 < lengths[chosen].sum() <= 11
    assert (np.diff(chosen) > 0).all()
    assert len(choose_sequences(lengths, 1, 0)) == 1


def test_figures_of_single_latents(dense, records):
    z, starts = dense
    owner = np.searchsorted(starts, np.arange(len(z)), "right") - 1
    seen = set()
    for latent, record in enumerate(records):
        column = z[:, latent].astype(np.float64)
        active = column > 0
        assert record["tokens"] == active.sum()
        assert record["sequences"] == len(set(owner[active]))
        assert record["density"] == pytest.approx(active.mean(), rel=1e-3)
        seen.add(bool(active.any()))
        if not active.any():
            assert record["top"] == []
            assert record["max"] == 0
            continue
        assert record["mean"] == pytest.approx(column[active].mean(), rel=1e-3)
        assert record["max"] == pytest.approx(column.max(), rel=1e-3)
        counts = np.histogram(column[active] / column.max(), BINS, (0, 1))[0]
        assert np.abs(np.array(record["histogram"]["counts"]) - counts).sum() <= 2  # a value on an edge
        peaks = sorted((column[owner == row].max() for row in range(40)), reverse=True)[:TOP]
        np.testing.assert_allclose([max(each["values"]) for each in record["top"]], [p for p in peaks if p], rtol=2e-3)
        assert len({each["sequence"] for each in record["top"]}) == len(record["top"])
    assert True in seen


def test_contexts_hold_their_letters_and_values(dense, records, folder):
    z, starts = dense
    letters = dict(zip(*[iter((folder / "x.fasta").read_text().replace(">", "").split())] * 2))
    for latent, record in enumerate(records):
        contexts = record["top"] + [each for band in record["quarters"] for each in band["contexts"]]
        for each in contexts:
            start, count = each["start"], len(each["values"])
            place = starts[int(each["sequence"][1:])] + start
            np.testing.assert_allclose(each["values"], z[place : place + count, latent], rtol=1e-3)
            assert "".join(each["letters"]) == letters[each["sequence"]][start : start + count]
            assert count <= 9
            assert max(each["values"]) > 0


def test_quarters_hold_random_tokens_of_their_values():
    values = np.random.default_rng(0).permutation(np.arange(1.0, 41)).astype(np.float32)
    codes = sparse.csc_matrix(np.stack([values, np.zeros(40, np.float32)], 1))
    found = describe_latents(codes, np.array([0, 10, 20, 40]), 0)
    assert found.edges[0].tolist() == [[1, 10], [11, 20], [21, 30], [31, 40]]
    for band in range(BANDS):
        chosen = values[found.contexts[0, TOP + EACH * band :][:EACH]]
        assert ((chosen >= 10 * band + 1) & (chosen <= 10 * band + 10)).all()
    assert (found.contexts[1] == -1).all()
    again = describe_latents(codes, np.array([0, 10, 20, 40]), 0)
    np.testing.assert_array_equal(found.contexts, again.contexts)
    windows, window_values = context_windows(codes, found.contexts, np.array([0, 10, 20, 40]), 3)
    for place, token in enumerate(found.contexts[0]):
        first, last = windows[0, place]
        assert first == last == 0 if token < 0 else first <= token < last
        np.testing.assert_array_equal(window_values[0, place, : last - first], values[first:last])


def test_what_is_active_together(dense, records, monkeypatch):
    z, _ = dense
    on = (z > 0).astype(np.float64)
    assert any(record["together"] for record in records)
    for latent, record in enumerate(records):
        expected = {}
        for other in range(M):
            both = (on[:, latent] * on[:, other]).sum()
            if other == latent or not both:
                continue
            phi = np.corrcoef(on[:, latent], on[:, other])[0, 1]
            expected[other] = (both, both / (on[:, latent].mean() * on[:, other].mean() * len(on)), phi)
        assert len(record["together"]) == min(len(expected), relations.NEAREST)
        for each in record["together"]:
            both, lift, phi = expected[each["latent"]]
            assert each["tokens"] == both
            assert [each["lift"], each["pmi"], each["phi"]] == pytest.approx(
                [lift, np.log2(lift), phi], rel=1e-3, abs=1e-3
            )
        phis = [each["phi"] for each in record["together"]]
        assert phis == sorted(phis, reverse=True)
        if phis:
            assert phis[0] == pytest.approx(max(phi for *_, phi in expected.values()), rel=1e-3)
    monkeypatch.setattr(relations, "MOST_PAIRS", 300)
    part = relations.cooccurring(sparse.csr_matrix(z))
    assert 0 < part.tokens < len(z)
    assert (part.both[part.latents >= 0] <= part.tokens).all()


def test_decoders_and_other_seeds(folder, records, monkeypatch):
    rows, other = (
        np.asarray(covjax.autoencoders.load(folder / name).decoder[...], np.float64) for name in ("sae0", "sae1")
    )
    cosines = rows @ rows.T / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows, axis=1)[:, None]
    np.fill_diagonal(cosines, -np.inf)
    expected = matched_cosines(rows, other)
    for latent, record in enumerate(records):
        found = [each["cosine"] for each in record["neighbours"]]
        np.testing.assert_allclose(found, np.sort(cosines[latent])[::-1][: relations.NEAREST], atol=1e-3)
        assert record["stability"][str(folder / "sae1")] == pytest.approx(expected[latent], abs=1e-3)
    monkeypatch.setattr(relations, "ALL_PAIRS", 0)
    shuffled = rows[np.random.default_rng(0).permutation(M)]
    np.testing.assert_allclose(relations.stability(rows, shuffled), 1, atol=1e-6)
    greedy = relations.stability(rows, other)
    assert greedy.sum() <= expected.sum() + 1e-6
    assert greedy.max() == pytest.approx((rows @ other.T).max(), abs=1e-5)


def test_enriched_labels_and_annotations_are_found(records):
    labels = [each for record in records for each in record["labels"]]
    assert labels
    assert {each["total"] for each in labels} == {38}
    assert max(each["p_holm"] for each in labels) <= 0.05
    annotations = [each for record in records for each in record["annotations"]]
    assert annotations
    assert all(each["both"] / each["active"] > each["having"] / each["total"] for each in annotations)


def test_logits_are_those_of_the_head():
    encoder = UniRep(random_weights())
    width = encoder.features(-1)
    module = make_autoencoder("topk", width, latents=8, k=2)
    module.scale[...] = jnp.float32(2)
    rng = np.random.default_rng(0)
    token, values = rng.normal(size=width), rng.random(8)
    found = logit_effects(encoder, -1, module, token, values)
    rows = np.asarray(module.decoder[...], np.float64) / 2 * values[:, None]
    expected = rows @ np.asarray(encoder.output[...], np.float64)
    for latent in range(8):
        np.testing.assert_allclose(found.effects[latent, :5], np.sort(expected[latent])[::-1][:5], atol=1e-4)
        np.testing.assert_allclose(found.effects[latent, 5:], np.sort(expected[latent])[:5], atol=1e-4)
        np.testing.assert_allclose(found.effects[latent], expected[latent][found.classes[latent]], atol=1e-4)
    assert found.names[: len(LETTERS)] == tuple(LETTERS)
    assert found.names[-1] == "24"
    with pytest.raises(InputError, match="has no head of its pre-training, so no logits"):
        logit_effects(_toy(jnp.float32), -1, module, token, values)
    with pytest.raises(InputError, match="rescale is layer_norm"):
        logit_effects(encoder, -1, make_autoencoder("topk", width, latents=8, k=2, rescale="layer_norm"), token, values)
    assert class_names(object(), 2) == ("0", "1")


@pytest.fixture
def board(folder):
    return covjax.dashboard(covjax.autoencoders.load(folder / "sae0"), folder / "store")


def test_a_class_that_is_not_raised_is_not_listed_as_raised(board):
    effects = np.array([[2.0, 0.0, -1.0, -1.0, 0.0, 2.0]] * M)
    logits = Logits(("a", "b", "c"), np.array([[0, 1, 2, 2, 1, 0]] * M), effects)
    record = dataclasses.replace(board, logits=logits).record(0)["logits"]
    assert record == {"raised": [{"class": "a", "effect": 2.0}], "lowered": [{"class": "c", "effect": -1.0}]}


def test_batches_of_a_larger_dashboard_do_not_stay(board, tmp_path):
    write_dashboard(board, tmp_path)
    batches = tmp_path / "neuronpedia"
    (batches / "batch-1.json").write_text("old")
    (batches / "batch-of-mine.json").write_text("mine")
    write_dashboard(board, tmp_path)
    assert sorted(file.name for file in batches.iterdir()) == ["batch-0.json", "batch-of-mine.json"]


def test_neuronpedias_layout(folder, records):
    batch = json.loads((folder / "out" / "neuronpedia" / "batch-0.json").read_text())
    assert batch["model_id"] == "dashboard-toy"
    assert batch["layer"] == -1
    assert len(batch["features"]) == M
    for record, feature in zip(records, batch["features"]):
        assert feature["feature_index"] == record["latent"]
        assert feature["frac_nonzero"] == record["density"]
        assert feature["freq_hist_data_bar_heights"] == record["histogram"]["counts"]
        highest = [each for each in feature["activations"] if each["bin_min"] == -1]
        assert [each["values"] for each in highest] == [each["values"] for each in record["top"]]
        assert all(len(each["tokens"]) == len(each["values"]) for each in feature["activations"])


def unpacked(page, name):
    found = re.search(f"<script type='text/plain' id='{name}'>([^<]+)</script>", page)
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


def test_the_page_holds_every_record_and_needs_no_network(folder, records):
    page = (folder / "out" / "dashboard.html").read_text()
    assert unpacked(page, "part-0") == records
    index = unpacked(page, "index")
    columns = {column["name"]: column["values"] for column in index["columns"]}
    assert columns["density"] == [record["density"] for record in records]
    assert "label" in columns
    assert not re.search(r"(src|href)=['\"]?(https?:)?//|@import|url\(", page)


# Frames as in `tests.browser`, but measured when the page's data are unpacked.
FRAMES = """<pre id="measures"></pre><script>
const measure = (frame) => {
  const page = frame.contentDocument, root = page.documentElement;
  return {width: root.clientWidth, scroll: root.scrollWidth, ready: page.body.dataset.ready || "",
          rows: page.querySelectorAll("#rows tr").length, title: page.querySelector("#detail h2").textContent,
          letters: page.querySelectorAll(".letters i").length};
};
const type = (frame, text) => {
  const page = frame.contentDocument, input = page.getElementById("search");
  input.value = text;
  input.dispatchEvent(new Event("input"));
  return page.querySelectorAll("#rows tr").length;
};
const wait = () => {
  const frames = [...document.querySelectorAll("iframe")];
  if (!frames.every((frame) => frame.contentDocument.body && frame.contentDocument.body.dataset.ready))
    return setTimeout(wait, 50);
  document.getElementById("measures").textContent = JSON.stringify(frames.map((frame) =>
    ({...measure(frame), found: type(frame, "#7"), none: type(frame, "no such letters")})));
};
wait();
</script>"""


def test_the_page_fits_a_phone_and_a_desk(folder, tmp_path):
    browser.needs_chromium()
    source = (folder / "out" / "dashboard.html").read_text()
    escaped = source.replace("&", "&amp;").replace('"', "&quot;")
    frames = [f'<iframe style="border:0;height:900px;width:{w}px" srcdoc="{escaped}"></iframe>' for w in (390, 1280)]
    page = tmp_path / "frames.html"
    page.write_text(f"<!doctype html><meta charset='utf-8'><body>{''.join(frames)}{FRAMES}", encoding="utf-8")
    options = ("--dump-dom", "--window-size=1400,1000", "--virtual-time-budget=20000")
    drawn = browser.run(tmp_path, *options, page.as_uri())
    measures = json.loads(re.search(r'<pre id="measures">(.+?)</pre>', drawn)[1])
    assert [each["width"] for each in measures] == [390, 1280]
    for each in measures:
        assert each["ready"] == "yes"
        assert each["scroll"] <= each["width"]
        assert each["rows"] == M
        assert each["letters"] > 10
        assert each["title"].startswith("Latent ")
        assert each["found"] == 1
        assert each["none"] == 0


def mistake(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main(["dashboard", *map(str, argv)])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_mistakes(folder, tmp_path, capsys):
    sae, store = folder / "sae0", folder / "store"
    assert "store: none is named; covjax dashboard runs/sae" in mistake(capsys, sae)
    assert "is there already" in mistake(capsys, sae, "--store", store, "--output", folder / "out")
    own = ("--store", store, "--output", tmp_path / "o", "--quiet")
    other = tmp_path / "other"
    options = {"latents": 8, "k": 2}
    save_autoencoder(other, make_autoencoder("topk", 4, **options), "topk", 4, options)
    assert "its tokens have 6 features, the autoencoder's 4" in mistake(capsys, other, *own)
    options |= {"layers": 2}
    cross = make_autoencoder("crosscoder", 6, **options)
    save_autoencoder(tmp_path / "cross", cross, "crosscoder", 6, options)
    assert "is Crosscoder, of several layers" in mistake(capsys, tmp_path / "cross", *own)
    small = save(tmp_path / "small", latents=8)
    assert "compare: a decoder of shape (8, 6), expected (24, 6)" in mistake(capsys, sae, *own, "--compare", small)
    (tmp_path / "n.csv").write_text("id,label\ns0,1.5\ns1,2.5\ns2,0.25\n")
    assert "holds numbers; enrichment needs classes" in mistake(capsys, sae, *own, "--labels", tmp_path / "n.csv")
    (tmp_path / "l.csv").write_text("id,label\nx0,a\nx1,b\n")
    assert "0 of its ids are in the store ('x0', …; there 's0'" in mistake(
        capsys, sae, *own, "--labels", tmp_path / "l.csv"
    )
    (tmp_path / "x.bed").write_text("chr1\t0\t3\tx\n")
    assert "none of its sequences is in the store ('chr1'" in mistake(
        capsys, sae, *own, "--annotations", tmp_path / "x.bed"
    )
    (tmp_path / "y.bed").write_text("s0\t0\t3000\tx\n")
    assert "letters, the annotation ends at 3000" in mistake(capsys, sae, *own, "--annotations", tmp_path / "y.bed")
    assert "layer: 3 is not among the kept ones" in mistake(capsys, sae, *own, "--layer", 3)
    assert "their weights differ" in mistake(capsys, sae, *own, "--encoder", "dashboard-other")
    with pytest.raises(InputError, match="autoencoder: .* is int; a dashboard needs a sparse autoencoder"):
        covjax.dashboard(3, store)


register_encoder(
    "dashboard-other", lambda dtype: from_function("other", lambda t, m: TABLE[t] * 2, {"A": 1, "C": 2, "G": 3, "T": 4})
)


def test_python_gives_what_the_command_writes(folder, records):
    board = covjax.dashboard(covjax.autoencoders.load(folder / "sae0"), folder / "store", reach=4)
    assert len(board) == M
    assert board.tokens == sum(TokenStore(folder / "store", -1).lengths)
    record = board.record(5)
    assert record == {key: value for key, value in records[5].items() if key in record}
