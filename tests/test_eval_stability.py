"""`eval.stability` on toy activations: what it trains, compares, probes and writes."""

import dataclasses
import json
import runpy
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from covjax import InputError
from covjax.autoencoders import load_autoencoder
from covjax.data.table import Dataset, read_table
from covjax.encoders import register_encoder
from covjax.encoders.unirep import UniRep
from eval.stability import StabilityConfig, _is_sparse, embed_all, main, stability
from tests.conftest import ROOT
from tests.test_unirep import random_weights
from tests.toy_autoencoders import activations, config

register_encoder("tiny-stability", lambda dtype: UniRep(random_weights()))

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
        assert list(results["procrustes"]) == pairs
        assert max(results["procrustes"][pair] for pair in pairs[:3]) < results["procrustes"]["random"]
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "absolute-topk", "options": {}}, "kind: absolute-topk has no pool of its latents to probe"),
        ({"steps": 0}, "steps: 0 is not allowed"),
        ({"dtype": "float99"}, "dtype: 'float99' is not allowed"),
        ({"store": ""}, "store: '' is not allowed; expected either"),
    ],
)
def test_what_cannot_be_compared_is_said_before_training(tmp_path, change, message):
    settings = StabilityConfig(output=str(tmp_path / "out"), train=config(tmp_path, **change))
    with pytest.raises(InputError, match=message):
        stability(settings, activations(), labelled())
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_the_command_takes_the_ready_configs(capsys):
    """As a command its module has another name than the one a config file imports."""
    arguments = [["--config", f"{ROOT}/configs/stability_{kind}.py", "--seeds", "0"] for kind in KINDS]
    command = [sys.executable, "-m", "eval.stability", *arguments[0]]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    with pytest.raises(SystemExit, match="2"):
        main(arguments[1])
    for errors in (result.stderr, capsys.readouterr().err):
        assert "error: seeds: (0,) is not allowed" in errors


@pytest.mark.parametrize("kind", KINDS)
def test_the_ready_configs_name_a_table_that_is_there(kind):
    settings = runpy.run_path(str(ROOT / f"configs/stability_{kind}.py"))["get_config"]()
    assert len(read_table(settings.table)) == 2400


def test_kinds_without_rows_or_a_basis_are_refused():
    for examples, wanted in (("tokens", "decoder"), ("sequences", "left")):
        with pytest.raises(InputError, match=f"kind: mine has no attribute to compare; .*`{wanted}`"):
            _is_sparse(SimpleNamespace(examples=examples), "mine", probed=False)


@pytest.mark.slow
def test_a_table_through_an_encoder_an_untied_basis_and_force(tmp_path, capsys):
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACDEFGHIKL"), n)) for n in rng.integers(5, 20, 60)]
    splits = np.resize(["train"] * 4 + ["validation", "test"], 60)
    rows = [f"{s},{int(s.count('A') > 1)},{split}" for s, split in zip(sequences, splits)]
    (tmp_path / "t.csv").write_text("\n".join(["sequence,label,split", *rows]) + "\n")
    toy = dict(steps=6, save_every=6, store="", encoder="tiny-stability", options={"rank": 2, "tied": False})
    settings = StabilityConfig(
        output=str(tmp_path / "out"),
        train=config(tmp_path, kind="tucker", **toy),
        table=str(tmp_path / "t.csv"),
        seeds=(0, 1),
    )
    results = stability(settings)
    assert list(results["principal_angles"]) == ["0–1", "0–1, B", "random"]
    assert set(results["probe"]["scores"]) == {"0", "1"}
    with pytest.raises(InputError, match=r"config.batch: 8 -> 4"):
        stability(dataclasses.replace(settings, train=dataclasses.replace(settings.train, batch=4)))
    (tmp_path / "config.py").write_text(
        "import tests.test_eval_stability as t\n\n\ndef get_config():\n    return t.FORCED[0]\n"
    )
    FORCED[:] = [dataclasses.replace(settings, train=dataclasses.replace(settings.train, batch=4))]
    assert main(["--config", str(tmp_path / "config.py"), "--force"]) == 0
    assert "0–1, B: largest principal angle" in capsys.readouterr().out


FORCED: list[StabilityConfig] = []  # what the config file of the test above returns
