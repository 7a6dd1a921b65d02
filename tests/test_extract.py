"""Extraction: the right numbers in the input's order, killed and resumed to the same bytes, faults refused by name."""

import dataclasses
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from covjax.data.store import SEAL, TOKEN_FORMAT, TokenStore, load_features, read_run, shard_path, token_path
from covjax.encoders import embed, from_function, load, register_encoder
from covjax.errors import InputError
from covjax.extraction import extract as module
from covjax.extraction import plan as extract_plan
from covjax.extraction.command import main
from covjax.extraction.config import ExtractConfig
from covjax.extraction.extract import extract
from covjax.jobs import checkpoint
from covjax.jobs.cli import load_config
from covjax.jobs.disk import read_sealed, sealed

ROOT = Path(__file__).resolve().parent.parent
TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6)), jnp.float32)


def _toy(dtype):
    def function(tokens, mask):
        x = jnp.where(mask[:, None], TABLE[tokens].astype(dtype), 0)
        return x, 2 * x[:, :3]

    return from_function("toy", function, {"A": 1, "C": 2, "G": 3, "T": 4})


register_encoder("extraction-toy", functools.cache(_toy))  # one function for all runs, compiled once
register_encoder(
    "extraction-nan",
    lambda dtype: from_function("nan", lambda t, m: jnp.full((len(t), 2), jnp.nan), {"A": 1, "C": 2, "G": 3, "T": 4}),
)


def settings_in(folder):
    """An extraction of 25 sequences whose input and output stand in a folder."""
    rng = np.random.default_rng(1)
    sequences = ["".join(rng.choice(list("ACGT"), n)) for n in rng.integers(2, 60, 25)]
    path = folder / "x.fasta"
    path.write_text("".join(f">s{i}\n{s}\n" for i, s in enumerate(sequences)))
    return ExtractConfig(
        data=str(path),
        output=str(folder / "out"),
        encoder="extraction-toy",
        layers=(0, -1),
        poolers=("mean", "log_covariance:eps=0.5"),
        keep_tokens=True,
        shard_size=7,
        token_budget=100,
    )


@pytest.fixture
def config(tmp_path):
    return settings_in(tmp_path)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The output of a finished run of `config`."""
    return extract(settings_in(tmp_path_factory.mktemp("original")))


@pytest.fixture
def finished(config, original):
    """`config` whose run is finished."""
    shutil.copytree(original, config.output)
    return config


def input_sequences(config):
    return Path(config.data).read_text().split()[1::2]


@pytest.mark.long
def test_features_and_tokens_are_those_of_each_sequence(config):
    folder = extract(config)
    first, tokens = TokenStore(folder, 0), TokenStore(folder, -1)
    means, logs = load_features(folder, "0/mean"), load_features(folder, "-1/log_covariance:eps=0.5")
    assert len(tokens) == 25
    for i, sequence in enumerate(input_sequences(config)):
        x = np.asarray(TABLE)[["_ACGT".index(letter) for letter in sequence]]
        np.testing.assert_allclose(means[i], x.mean(0), rtol=1e-5, atol=1e-6)
        s, v = np.linalg.eigh(np.cov(2 * x[:, :3].T.astype(np.float64), bias=True) + 0.5 * np.eye(3))
        upper = ((v * np.log(s)) @ v.T)[np.triu_indices(3)] * np.sqrt([1, 2, 2, 1, 2, 1])
        np.testing.assert_allclose(logs[i], upper, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(tokens[i], (2 * x[:, :3]).astype(jnp.bfloat16))
        np.testing.assert_array_equal(first[i], x.astype(jnp.bfloat16))


@pytest.mark.long
def test_the_letters_come_with_the_tokens(original):
    store = TokenStore(original, 0)
    assert store.run["identity"]["format"] == TOKEN_FORMAT
    for row, (tokens, text) in enumerate(store.read_texts(range(25))):
        np.testing.assert_array_equal(tokens, store[row])
        np.testing.assert_array_equal(
            tokens[:, 0], TABLE[["_ACGT".index(x) for x in text.letters], 0].astype("bfloat16")
        )
        assert text.spans.tolist() == [[i, i + 1] for i in range(len(tokens))]


def test_a_store_of_an_earlier_version_is_read_without_letters(original):
    store = TokenStore(original, 0)
    expected, record = store[3], store._records([3])[0]
    old = record[: SEAL + 2 * len(expected) * 9]  # two layers, of 6 and 3 features
    assert len(old) < len(record)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_records", lambda rows: [old])
        with pytest.raises(InputError, match="another run or sequence than 3"):
            store[3]
        patch.setitem(store.run["identity"], "format", 3)
        np.testing.assert_array_equal(store[3], expected)
        with pytest.raises(InputError, match="out: its records have no letters: an earlier version .* again, with --f"):
            store.read_texts([3])


def test_few_shapes_over_all_shards(config):
    seen = set()
    encoder = load("extraction-toy")
    edges = extract_plan.bucket_edges(np.array([len(s) for s in input_sequences(config)]), 4)
    for start in range(0, 25, 7):
        part = sorted(input_sequences(config), key=len)[start : start + 7]
        for _, _, mask in embed(encoder, part, (0,), 100, edges=edges):
            seen.add(mask.shape)
    assert len(seen) <= 4
    with pytest.raises(InputError, match="edges: the last is 3"):
        next(embed(encoder, ["ACGT"], (0,), edges=[3]))


def test_complete_shards_are_not_made_again(finished, monkeypatch, capsys):
    shard = shard_path(finished.output, 2)
    first = load_features(finished.output, "0/mean")
    checkpoint.remove(shard)
    made = []
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda path, *rest: (made.append(path), save(path, *rest)))
    extract(finished)
    assert made == [shard]
    assert "3 of 4 complete" in capsys.readouterr().out
    np.testing.assert_array_equal(load_features(finished.output, "0/mean"), first)


def test_layers_from_the_end_on_the_command_line(config):
    arguments = ["--data", config.data, "--encoder", "extraction-toy", "--poolers", "mean", "--output", config.output]
    assert main([*arguments, "--layers", "-1,-2"]) == 0
    assert list(read_run(config.output)["features"]) == ["-1/mean", "-2/mean"]


def test_a_shard_that_was_lost_or_damaged_is_made_again(finished, capsys):
    first = {name: load_features(finished.output, name) for name in ("0/mean", "-1/log_covariance:eps=0.5")}
    tokens = read_all(finished.output)
    path = token_path(finished.output, 1)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    token_path(finished.output, 2).unlink()
    checkpoint.remove(shard_path(finished.output, 3))
    capsys.readouterr()
    extract(finished)
    printed = capsys.readouterr()
    assert "1 of 4 complete" in printed.out
    assert f"note: {path}: changed or damaged; shard 1 is made again" in printed.err
    for name, values in first.items():
        np.testing.assert_array_equal(load_features(finished.output, name), values)
    for x, y in zip(read_all(finished.output), tokens, strict=True):
        np.testing.assert_array_equal(x, y)


def test_force_leaves_what_is_not_its_own_and_comes_after_all_checks(finished, tmp_path):
    folder = Path(finished.output)
    first = load_features(folder, "0/mean")
    (folder / "shards" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="no such file"):
        extract(dataclasses.replace(finished, data=str(tmp_path / "typo.fasta")), force=True)
    np.testing.assert_array_equal(load_features(folder, "0/mean"), first)
    extract(dataclasses.replace(finished, poolers=("max",)), force=True)
    assert list(read_run(folder)["features"]) == ["0/max", "-1/max"]
    assert (folder / "shards" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (0,)}, r"layers: \[0, -1\] -> \[0\]"),
        ({"poolers": ("mean",)}, "poolers"),
        ({"dtype": "bfloat16"}, "dtype: 'float32' -> 'bfloat16'"),
    ],
)
def test_other_settings_are_refused_with_the_difference(finished, change, message):
    with pytest.raises(InputError, match=message):
        extract(dataclasses.replace(finished, **change))


def test_another_input_is_refused(finished):
    with Path(finished.data).open("a") as file:
        file.write(">more\nACGT\n")
    with pytest.raises(InputError, match="input: "):
        extract(finished)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_length": 10}, "letters, more than max_length 10"),
        ({"max_output_gib": 1e-9}, "more than max_output_gib"),
        ({"poolers": ("mean", "mean")}, "poolers"),
        ({"poolers": ("nothing",)}, "nothing"),
        ({"poolers": ("log_covariance:eps",)}, "expected option=value"),
        ({"layers": (7,)}, "layer: 7 is not one of"),
        ({"encoder": "extraction-nan", "layers": (0,)}, r"s\d+: NaN or infinite activations at layer 0"),
        ({"data": ""}, "data"),
    ],
)
def test_faults_are_named(config, change, message):
    with pytest.raises(InputError, match=message):
        extract(dataclasses.replace(config, **change))


def test_an_unknown_letter_names_the_sequence(config, capsys):
    Path(config.data).write_text(">good\nACGT\n>bad\nACXT\n")
    with pytest.raises(SystemExit, match="2"):
        main(["--data", config.data, "--encoder", "extraction-toy", "--output", config.output])
    assert "bad: unknown letter 'X' at position 3" in capsys.readouterr().err


@pytest.mark.long
def test_changed_files_and_a_full_disk_are_noticed(config, monkeypatch):
    real = os.replace

    def full(source, target):
        if "array_record" in str(target) and "00001" in str(target):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        extract(config)
    assert not list(Path(config.output).glob("tokens/*.tmp"))
    with pytest.raises(InputError, match="3 of 4 shards are missing"):
        load_features(config.output, "0/mean")
    monkeypatch.undo()
    extract(config)
    with pytest.raises(InputError, match="layer: 5"):
        TokenStore(config.output, 5)
    with pytest.raises(InputError, match="'0/max' is not one of 0/mean"):
        load_features(config.output, "0/max")
    path = token_path(config.output, 1)
    content = path.read_bytes()
    expected = read_all(config.output)
    messages = []
    for place in range(0, 4000, 160):  # the records, after which a file is filled up
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            for x, y in zip(read_all(config.output), expected, strict=True):
                np.testing.assert_array_equal(x, y)
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 8
    assert all("00001.array_record: damaged" in message for message in messages)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="00001.array_record: damaged"):
        TokenStore(config.output, 0)
    path.unlink()
    with pytest.raises(InputError, match="00001.array_record: missing"):
        TokenStore(config.output, 0)


def read_all(folder):
    return TokenStore(folder, 0).__getitems__(range(25))


def test_token_files_of_another_run_or_in_another_order_are_refused(finished, tmp_path):
    other = extract(dataclasses.replace(finished, output=str(tmp_path / "other"), token_budget=150))
    mine, theirs, second = (token_path(*each) for each in ((finished.output, 0), (other, 0), (finished.output, 2)))
    original = mine.read_bytes()
    rows = checkpoint.read_manifest(shard_path(finished.output, 0))["rows"]
    for source in (theirs, second):  # the same sequences and lengths; other sequences
        mine.write_bytes(source.read_bytes())
        store = TokenStore(finished.output, 0)
        with pytest.raises(InputError, match="00000.array_record: holds a record of another run or sequence than"):
            store[rows[0]]
    mine.write_bytes(original)
    assert len(read_all(finished.output)) == 25


def test_a_store_of_another_format_is_refused(finished):
    path = Path(finished.output) / "extraction.json"
    run = read_sealed(path)
    del run["identity"]["format"]
    path.write_text(sealed(run))
    with pytest.raises(InputError, match="format None, written by another version of covjax"):
        TokenStore(finished.output, 0)


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes_to_the_same_bytes(config, tmp_path):
    script = "import sys; from tests import test_extract; sys.exit(test_extract.main(sys.argv[1:]))"
    arguments = ["--data", config.data, "--encoder", "extraction-toy", "--layers=0,-1", "--keep-tokens", "true"]
    arguments += ["--shard-size", "3", "--token-budget", "100", "--poolers", "mean,covariance"]

    def start(output):
        command = [sys.executable, "-c", script, *arguments, "--output", str(output)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole).wait(120) == 0
    killed = 0
    for target in (1, 3, 5):
        process = start(broken)
        while process.poll() is None and len(list(broken.glob("tokens/*.array_record"))) < target:
            time.sleep(0.01)
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert killed >= 1
    assert start(broken).wait(120) == 0
    for name in ("0/mean", "-1/covariance"):
        np.testing.assert_array_equal(load_features(whole, name), load_features(broken, name))
    for path in sorted(whole.glob("tokens/*")):
        assert path.read_bytes() == (broken / "tokens" / path.name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["true", "false"])
def test_several_devices_give_the_same(config, tmp_path, keep):
    script = "import sys; from tests import test_extract; sys.exit(test_extract.main(sys.argv[1:]))"
    arguments = ["--data", config.data, "--encoder", "extraction-toy", "--keep-tokens", keep, "--window", "30"]
    arguments += ["--halo", "3", "--token-budget", "100", "--poolers", "mean,log_covariance:eps=0.5"]
    outputs = {}
    for count in (1, 4):
        environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}
        command = [sys.executable, "-c", script, *arguments, "--output", str(tmp_path / str(count))]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        assert f"on {count} device(s)" in done.stdout
        outputs[count] = tmp_path / str(count)
    for name in ("-1/mean", "-1/log_covariance:eps=0.5"):
        one, four = (load_features(outputs[count], name) for count in (1, 4))
        np.testing.assert_allclose(four, one, rtol=1e-5, atol=1e-5)
    for i in range(25 if keep == "true" else 0):
        np.testing.assert_array_equal(TokenStore(outputs[4], -1)[i], TokenStore(outputs[1], -1)[i])


@pytest.mark.slow
def test_a_config_file_sets_the_options(config, tmp_path):
    text = "from covjax.extraction.config import ExtractConfig\n\n\ndef get_config():\n    return "
    (tmp_path / "c.py").write_text(text + f"ExtractConfig(output={str(tmp_path / 'a')!r}, poolers=('mean',))\n")
    Path(config.data).write_text(">one\nMKV\n>two\nMSTNPKPQ\n")
    command = [sys.executable, "-m", "train.extract", "--config", str(tmp_path / "c.py"), "--data", config.data]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert load_features(tmp_path / "a", "-1/mean").shape == (2, 64)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("extract_*.py")), ids=lambda path: path.stem)
def test_ready_experiments_are_allowed(path):
    found = load_config(path, ExtractConfig)
    dataclasses.replace(found, data="x.fasta").check()
    for pooler in found.poolers:
        module.parse_pooler(pooler)


def test_only_what_is_missing_must_fit_on_the_disk(finished, monkeypatch):
    """25 sequences of 2 + 27 numbers, 1,000-odd tokens of 9, their letters: some 30 kB, one shard of four to come."""
    folder = Path(finished.output)
    shutil.rmtree(shard_path(folder, 2))
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=12_000))
    extract(finished)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="GiB to come, but only 1.12e-05 GiB are free"):
        extract(finished)
