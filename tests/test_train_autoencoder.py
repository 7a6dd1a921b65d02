"""Training in one process: what is written, what a second run does, what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covjax.activations.windows import join
from covjax.autoencoder_command import main
from covjax.autoencoders import (
    TuckerAutoencoder,
    evaluate_fvu,
    load_autoencoder,
    make_autoencoder,
    register_autoencoder,
)
from covjax.autoencoders.sparse.module import Sums
from covjax.errors import InputError
from covjax.jobs import checkpoint
from covjax.jobs.folder import checkpoint_path, saved_steps
from covjax.notes import progress
from covjax.training.autoencoder import train_autoencoder
from covjax.training.log import histograms, read_log
from tests.toy_autoencoders import EXAMPLE, Unheld, activations, config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run; tests that change its files work on a copy."""
    path = tmp_path_factory.mktemp("run") / "run"
    return path, train_autoencoder(config(path), activations())


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


@pytest.mark.long
def test_a_run_writes_log_figures_checkpoints_and_the_autoencoder(finished):
    path, result = finished
    rows = read_log(path)
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, 13))
    assert [row["step"] for row in rows if row["split"] == "held-out"] == [6, 12]
    assert all(np.isfinite([row["loss"] for row in rows if row["split"] == "train"]))
    assert rows[-1]["fvu"] == result.held_out["fvu"]
    assert saved_steps(path / "checkpoints") == [8, 12]
    assert (path / "figures" / "training.png").stat().st_size > 1000
    model = load_autoencoder(path / "autoencoder")
    np.testing.assert_array_equal(model.left[...], result.model.left[...])
    assert model.seen[...] == 12 * 8


def test_held_out_fvu_is_that_of_the_held_out_sequences(finished):
    from covjax.training.batches import split_rows

    model, data = finished[1].model, activations()
    _, held = split_rows(40, 0.1, 0)
    assert len(held) == 4
    tokens = [((x - model.mean[...]) / model.deviation[...])[None] for x in data.read(held.tolist())]
    expected = evaluate_fvu([(x, None) for x in tokens], model.left[...])
    assert finished[1].held_out["fvu"] == pytest.approx(expected, rel=1e-4)


def test_a_finished_run_is_not_trained_again(run, finished):
    before = {p: p.stat().st_mtime_ns for p in (run / "checkpoints").rglob("*") if p.is_file()}
    result = train_autoencoder(config(run), activations())
    assert result.held_out == finished[1].held_out
    assert before == {p: p.stat().st_mtime_ns for p in (run / "checkpoints").rglob("*") if p.is_file()}


def test_an_earlier_checkpoint_leads_to_the_same_end(run, finished):
    """As after a kill: no newest checkpoint, rows of the log beyond the one before, a half-written row and save."""
    end = checkpoint.read_manifest(checkpoint_path(finished[0] / "checkpoints", 12))
    shutil.rmtree(checkpoint_path(run / "checkpoints", 12))
    partial = run / "checkpoints" / "00000012.orbax-checkpoint-tmp"
    partial.mkdir()
    with (run / "log.jsonl").open("a") as file:
        file.write('{"step": 13, "spl')
    train_autoencoder(config(run), activations())
    assert checkpoint.read_manifest(checkpoint_path(run / "checkpoints", 12)) == end
    assert not partial.exists()
    strip = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    assert strip(read_log(run)) == strip(read_log(finished[0]))


@pytest.mark.long
def test_tokens_that_do_not_fit_into_memory_are_mixed_in_blocks_and_a_run_resumes_to_the_same_bits(tmp_path):
    settings = {"kind": "topk", "options": {"latents": 48, "k": 4}, "batch": 16, "max_memory_gib": 0.0}
    settings |= {"mix_tokens": 200}
    train_autoencoder(config(tmp_path / "run", **settings), Unheld(activations()))
    last = checkpoint_path(tmp_path / "run" / "checkpoints", 12)
    end = checkpoint.read_manifest(last)
    assert end["order"] == "blocks of 1 sequences in 4 lanes"
    shutil.rmtree(last)
    train_autoencoder(config(tmp_path / "run", **settings), Unheld(activations()))
    assert checkpoint.read_manifest(last) == end
    shutil.rmtree(last)
    for change in ({"mix_tokens": 900}, {"max_memory_gib": 1.0}):
        with pytest.raises(InputError, match=r"order: 'blocks of 1 sequences in 4 lanes' -> '(blocks of .|all tokens)"):
            train_autoencoder(config(tmp_path / "run", **settings | change), Unheld(activations()))


@pytest.mark.parametrize(
    ("changes", "count", "size"),
    [
        ({}, 40, 16),
        ({}, 10, 8),  # nine to train on
        ({"kind": "absolute-topk", "options": {"latents": 32, "k": 3}}, 40, 512),  # of fewer than 1,024 tokens
        ({"kind": "absolute-topk", "options": {"latents": 32, "k": 3}}, 200, 4096),
    ],
)
def test_the_default_batch_is_of_sequences_or_tokens_and_the_number_it_comes_to_resumes_the_run(
    tmp_path, capsys, changes, count, size
):
    toy = activations(count=count)
    train_autoencoder(config(tmp_path, batch=None, steps=2, **changes), toy)
    last = checkpoint_path(tmp_path / "checkpoints", 2)
    assert checkpoint.read_manifest(last)["config"]["batch"] == size
    capsys.readouterr()
    train_autoencoder(config(tmp_path, batch=size, steps=2, **changes), toy)
    assert "resumed at step 2 of 2" in capsys.readouterr().out


def test_changed_settings_and_data_are_refused_with_the_difference(run):
    with pytest.raises(InputError, match=r"run holds another run: config.learning_rate: 0.01 -> 0.02; use --output"):
        train_autoencoder(config(run, learning_rate=0.02), activations())
    with pytest.raises(InputError, match=r"data.toy: 0 -> 1"):
        train_autoencoder(config(run), activations(seed=1))
    with pytest.raises(InputError, match=r"config.batch: 8 -> 4"):
        train_autoencoder(config(run, batch=4), activations())


@pytest.mark.parametrize("fault", ["flipped", "truncated", "metadata"])
def test_damaged_files_are_refused_by_name(run, fault):
    newest = checkpoint_path(run / "checkpoints", 12)
    files = sorted((p for p in (newest / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    if fault == "metadata":
        (newest / "manifest" / "data.json").write_text("{")
    else:
        content = bytearray(files[-1].read_bytes())
        content[len(content) // 2] ^= 255
        files[-1].write_bytes(bytes(content) if fault == "flipped" else bytes(content[: len(content) // 2]))
    with pytest.raises(InputError, match="00000012: "):
        train_autoencoder(config(run), activations())


def test_the_pages_example_trains_through_the_loop(tmp_path):
    assert len(EXAMPLE.strip().splitlines()) <= 40
    settings = config(
        tmp_path, kind="absolute-topk", options={"latents": 32, "k": 3}, batch=64, steps=150, evaluate_every=50
    )
    result = train_autoencoder(dataclasses.replace(settings, save_every=150, log_every=50), activations())
    curve = [row["fvu"] for row in read_log(tmp_path) if row["split"] == "held-out"]
    assert len(curve) == 3
    assert curve[-1] < 0.9 * curve[0]
    np.testing.assert_allclose(np.linalg.norm(result.model.dictionary[...], axis=1), 1, rtol=1e-5)
    assert 0 <= result.held_out["dead"] <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 41}, "batch: 41 sequences, but the stream holds only 36"),
        ({"kind": "absolute-topk", "batch": 10**6}, r"batch: 1000000 tokens, but the stream holds only \d+"),
        ({"kind": "nothing"}, "kind: 'nothing' is not known; allowed: absolute-topk"),
        ({"options": {"rank": 13}}, "rank: 13 is not in 1 … 12"),
        ({"options": {"depth": 1}}, "no option 'depth'; allowed: rank"),
        ({"held_out": 0.001}, "held_out: 0.001 of 40 sequences"),
        ({"learning_rate": 0.0}, "learning_rate: 0.0 is not allowed"),
        ({"data": "both"}, "store: 'toy' is not allowed; expected either"),
        ({"wandb": "project"}, "wandb: 'project' is requested, but"),
    ],
)
def test_bad_settings_are_named(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        train_autoencoder(config(tmp_path, **change), activations())


@register_autoencoder("numpy-start")
class NumpyStart(TuckerAutoencoder):
    """Its start is computed from a JAX array with NumPy, which has no shapes without values."""

    def __init__(self, features, *, seed=0):
        super().__init__(features, rank=3)
        self.left[...] = np.linalg.qr(np.asarray(jax.random.normal(jax.random.key(seed), (features, 3))))[0]


def test_a_kind_whose_start_is_numpys_trains_all_the_same(tmp_path):
    result = train_autoencoder(config(tmp_path, kind="numpy-start", steps=2, warmup=1, save_every=2), activations())
    assert result.held_out["fvu"] < 1


def test_bad_activations_are_named(tmp_path):
    good = activations()
    arrays = good.read(range(40))
    arrays[7] = np.full_like(arrays[7], np.nan)
    with pytest.raises(InputError, match="NaN or infinite values in sequence 7"):
        train_autoencoder(config(tmp_path / "nan"), join(arrays, {}))
    huge = [1e20 * x for x in good.read(range(40))]
    with pytest.raises(InputError, match="learning_rate: .* is (nan|inf|-inf) at step 1"):
        train_autoencoder(config(tmp_path / "huge", kind="tucker", options={"rank": 3}), join(huge, {}))


def test_constant_activations_are_refused_for_every_kind(tmp_path):
    constant = join([np.ones((9, 12), np.float32)] * 40, {})
    with pytest.raises(InputError, match="every feature is constant"):
        train_autoencoder(config(tmp_path, kind="absolute-topk", options={}), constant)


def test_both_sides_may_start_from_one_array(tmp_path):
    options = {"rank": 3, "tied": False, "init": "pca", "prefixes": (1, 3)}
    result = train_autoencoder(config(tmp_path, kind="tucker", options=options, steps=2, warmup=0), activations())
    assert 0 < result.held_out["fvu"] < 1
    assert load_autoencoder(tmp_path / "autoencoder").prefixes == (1, 3)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="output: .*file.* cannot be written"):
        train_autoencoder(config(tmp_path / "file"), activations())


def test_the_command_prints_one_line_for_an_error(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--steps", "3"])
    assert "expected either --store FOLDER or --data FILE" in capsys.readouterr().err


def test_a_step_too_large_for_memory_is_refused_before_it_runs(tmp_path, monkeypatch):
    from covjax.training import state

    monkeypatch.setattr(state, "_free_memory", lambda: 10)
    with pytest.raises(InputError, match="options: .* GiB of parameters need .*, 9.31e-09 GiB are free"):
        train_autoencoder(config(tmp_path), activations())
    monkeypatch.setattr(state, "_free_memory", lambda: 3000)  # enough for the state, not for a step
    with pytest.raises(InputError, match=r"batch: a step on \(8, \d+, 12\) needs .* GiB more"):
        train_autoencoder(config(tmp_path), activations())


def test_log_reaches_tensorboard_where_it_is_installed(finished):
    pytest.importorskip("tensorboardX")
    (file,) = (finished[0] / "tensorboard").glob("events.*")
    written = file.read_bytes()
    for name in ("train/learning_rate", "held-out/fvu", "parameters/left", "_hparams_/session_start_info"):
        assert name.encode() in written


def test_histograms_are_of_parameters_and_of_latents_that_were_active(rng):
    model = make_autoencoder("topk", 4, latents=8, k=2)
    sums = Sums(jnp.float32(100), jnp.zeros(()), jnp.zeros(4), jnp.zeros(()), jnp.array([0.0, 1, 10, 100, 0, 0, 0, 0]))
    drawn = histograms(model, sums)
    np.testing.assert_allclose(drawn.pop("log10 density"), [-2, -1, 0], atol=1e-6)
    assert set(drawn) == {f"parameters/{name}" for name in ("encoder", "decoder", "encoder_bias", "decoder_bias")}
    np.testing.assert_array_equal(drawn["parameters/encoder"], np.asarray(model.encoder[...]).ravel())


def test_the_log_has_the_learning_rate(finished):
    rates = [row["learning_rate"] for row in read_log(finished[0]) if row["split"] == "train"]
    np.testing.assert_allclose(rates, [0, 0.005, *[0.01] * 9, 0.005], rtol=1e-6)


def test_without_a_terminal_progress_is_lines(capsys):
    for _ in progress(range(3), mininterval=0, miniters=1):
        pass
    lines = capsys.readouterr().err
    assert "\r" not in lines
    assert [line[:4] for line in lines.splitlines()][-1] == "100%"


def test_json_rows_are_json(finished):
    for line in (finished[0] / "log.jsonl").read_text().splitlines():
        assert {"step", "split", "seconds"} < set(json.loads(line))
