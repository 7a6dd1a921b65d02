"""`eval.stability` on toy activations: what it trains, compares, probes and writes."""

import json

import numpy as np
import pytest

from covjax import InputError
from covjax.autoencoders import load_autoencoder
from covjax.data.table import Dataset
from eval.stability import StabilityConfig, embed_all, main, stability
from tests.toy_autoencoders import activations, config

KINDS = {
    "topk": {"kind": "topk", "options": {"latents": 16, "k": 3}, "batch": 64},
    "tucker": {"kind": "tucker", "options": {"rank": 3}},
}


def labelled(count=40):
    """The toy sequences come from three subspaces in turn: that is their label."""
    splits = np.resize(["train"] * 6 + ["validation"] * 2 + ["test"] * 2, count)
    one_hot = np.eye(3, dtype=bool)[np.arange(count) % 3]
    names = tuple(f"s{i}" for i in range(count))
    return Dataset("toy", "multiclass", names, names, one_hot, ("a", "b", "c"), names, splits, True)


@pytest.fixture(scope="module", params=KINDS)
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    settings = StabilityConfig(
        output=str(folder), train=config(folder, steps=20, **KINDS[request.param]), seeds=(0, 1, 5)
    )
    return request.param, folder, stability(settings, activations(), labelled())


@pytest.mark.slow
def test_every_two_seeds_are_compared_beside_chance(run):
    kind, folder, results = run
    pairs = ["0–1", "0–5", "1–5", "random"]
    assert list(results["held_out"]) == ["0", "1", "5"]
    assert all(0 < found["fvu"] < 1.5 for found in results["held_out"].values())
    if kind == "topk":
        found = results["matched_cosines"]
        assert list(found) == pairs
        for each in found.values():
            assert len(each["sorted"]) == 16
            assert 0 <= each["above_0.9"] <= each["above_0.7"] <= 1
            assert each["quantiles"]["0.5"] == pytest.approx(np.median(each["sorted"]), abs=1e-4)
    else:
        assert list(results["principal_angles"]) == pairs
        assert all(len(angles) == 3 for angles in results["principal_angles"].values())
        assert list(results["procrustes"]) == pairs[:3]
    assert json.loads((folder / "stability.json").read_text()) == results
    assert (folder / "stability.png").stat().st_size > 1000
    assert "what stays when the seed changes" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_the_probe_is_scored_for_every_seed(run):
    probe = run[2]["probe"]
    assert probe["metric"] == "MCC"
    assert probe["spread"] == pytest.approx(max(probe["scores"].values()) - min(probe["scores"].values()))
    assert probe["mean"] == pytest.approx(np.mean(list(probe["scores"].values())))
    assert len(probe["scores"]) == 3


@pytest.mark.slow
def test_the_training_loop_keeps_the_state_of_sparse_autoencoders(run):
    kind, folder, _ = run
    model = load_autoencoder(folder / "seed-5" / "autoencoder")
    if kind == "topk":
        idle = np.asarray(model.idle[...])
        assert idle.min() == 0
        assert set(idle) <= set(range(0, 20 * 64 + 1, 64))
        assert idle[np.asarray(model.fired[...])].max() == 0
        assert model.scale[...] != 1
        np.testing.assert_allclose(np.linalg.norm(model.decoder[...], axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_seeds_share_their_data_and_its_statistics(run):
    """Bases in units of other deviations would not be comparable; FVU on other sequences neither."""
    kind, folder, _ = run
    models = [load_autoencoder(folder / f"seed-{seed}" / "autoencoder") for seed in (0, 5)]
    if kind == "tucker":
        np.testing.assert_array_equal(models[0].mean[...], models[1].mean[...])
        assert not np.array_equal(models[0].left[...], models[1].left[...])
    logs = [(folder / f"seed-{seed}" / "log.jsonl").read_text() for seed in (0, 5)]
    assert logs[0] != logs[1]


def test_embedding_ignores_the_padding():
    data = activations(count=5)
    mean = embed_all(lambda x, w: (w @ x) / w.sum(), data)
    np.testing.assert_allclose(mean, [x.mean(0) for x in data.read(range(5))], rtol=1e-4, atol=1e-5)


def test_bad_settings_are_named(tmp_path, capsys):
    for seeds in ((0,), (1, 1), (0, -1)):
        with pytest.raises(InputError, match="seeds: "):
            stability(StabilityConfig(seeds=seeds))
    with pytest.raises(SystemExit):
        main(["--seeds", "0", "--output", str(tmp_path)])
    assert "error: seeds: (0,) is not allowed" in capsys.readouterr().err
