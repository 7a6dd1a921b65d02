"""What holds for every encoder: layers, types, one's own models, checks, bad input, memory while loading."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from covjax import encoders
from covjax.encoders import check_padding_invariance, embed, from_arrays, from_function, norm_report, tokenize
from covjax.encoders.base import nucleotide_ids
from covjax.encoders.unirep import UniRep
from covjax.errors import InputError
from tests.encoders.folders import write_bert
from tests.test_unirep import random_weights

LETTERS = {letter: number for number, letter in enumerate("ACGT", start=1)}


@pytest.fixture
def bert(tmp_path):
    write_bert(tmp_path, np.random.default_rng(0))
    return encoders.load(str(tmp_path))


def sums_to_here(tokens, mask):
    """A causal toy model: the running sum of one-hot tokens; padding behind cannot matter."""
    return jnp.cumsum(jax.nn.one_hot(tokens, 5) * mask[:, None], 0)


def test_negative_layers_keep_the_asked_numbers(bert):
    tokens, mask, _ = tokenize(bert, ["ACDEF", "MW"])
    for model in (bert, UniRep(random_weights())):
        last = model.num_layers - 1
        layers = model.apply(tokens, mask, (-1, 0, last, -model.num_layers))
        assert set(layers) == {-1, 0, last, -model.num_layers}
        np.testing.assert_array_equal(layers[-1], layers[last])
        np.testing.assert_array_equal(layers[-model.num_layers], layers[0])
        assert model.features(-1) == layers[-1].shape[-1]
        for bad in (last + 1, -model.num_layers - 1):
            with pytest.raises(InputError, match=f"layer: {bad} is not one of"):
                model.apply(tokens, mask, (bad,))


def test_bfloat16_is_near_float32_and_of_its_type(tmp_path, bert):
    half = encoders.load(str(tmp_path), dtype=jnp.bfloat16)
    tokens, mask, _ = tokenize(bert, ["ACDEFGHIKLMN", "MW"])
    full, low = bert.apply(tokens, mask, (-1,))[-1], half.apply(tokens, mask, (-1,))[-1]
    assert (full.dtype, low.dtype) == (jnp.float32, jnp.bfloat16)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.blocks[0].qkv)} == {"bfloat16"}
    assert half.weights_digest == bert.weights_digest  # of the file, not of the type it runs in
    error = np.abs(np.asarray(low, np.float32) - np.asarray(full))[mask].max() / np.asarray(full)[mask].std()
    assert 1e-6 < error < 0.1


def test_other_types_are_refused_by_name(tmp_path):
    for dtype, name in {
        jnp.float16: "float16",
        np.float64: "float64",
        jnp.int32: "int32",
        "float8": "'float8'",
    }.items():
        with pytest.raises(InputError, match=f"dtype: {name} is no.*; allowed: float32 and bfloat16"):
            encoders.load(str(tmp_path), dtype=dtype)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_hub_id_is_the_same_as_the_folder(tmp_path, monkeypatch, suffix):
    import huggingface_hub

    write_bert(tmp_path, np.random.default_rng(0))
    asked = []

    def fetch(name, allow_patterns):
        asked.append((name, "pytorch_model.bin" in allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    if suffix == "bin":
        torch = pytest.importorskip("torch")
        from safetensors.torch import load_file

        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
        expected = encoders.load(str(tmp_path)).weights_digest
        (tmp_path / "model.safetensors").unlink()
    else:
        expected = encoders.load(str(tmp_path)).weights_digest
    ours = encoders.load("owner/model", dtype="float32")
    assert (ours.name, ours.weights_digest) == ("owner/model", expected)
    assert asked == [("owner/model", False), ("owner/model", True)][: 1 + (suffix == "bin")]


def test_unirep_has_no_bfloat16():
    with pytest.raises(InputError, match="bfloat16 is not supported by UniRep"):
        encoders.load("unirep-64", dtype=jnp.bfloat16)


def test_checkpoints_in_half_precision_are_read(tmp_path):
    from safetensors.numpy import load_file, save_file

    write_bert(tmp_path, np.random.default_rng(0))
    weights = load_file(tmp_path / "model.safetensors")
    low = {name: w.astype(ml_dtypes.bfloat16) for name, w in weights.items()}
    save_file(low, tmp_path / "model.safetensors")
    found = encoders.load(str(tmp_path)).words[...]
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, low["embeddings.word_embeddings.weight"].astype(np.float32))


def test_a_function_is_an_encoder():
    ours = from_function("toy", sums_to_here, LETTERS)
    assert isinstance(ours, encoders.Encoder)
    assert (ours.num_layers, ours.features(-1)) == (1, 5)
    for rows, layers, pool in embed(ours, ["AC", "ACGT"], (0,)):
        for b, row in enumerate(rows):
            expected = np.cumsum(np.eye(5)[[LETTERS[c] for c in ["AC", "ACGT"][row]]], 0)
            np.testing.assert_array_equal(np.asarray(layers[0])[b][pool[b]], expected)
    with pytest.raises(InputError, match="unknown letter 'N' at position 2"):
        ours.encode("AN")
    with pytest.raises(InputError, match="no token to pool"):
        ours.encode("")


def test_a_function_with_layers_parameters_and_special_tokens_is_registered():
    def model(table, tokens, mask):
        x = table[tokens]
        return x, jnp.concatenate([x, x**2], -1)

    def toy(scale):
        table = jnp.arange(18.0).reshape(6, 3) * scale
        partial = jax.tree_util.Partial(model, table)
        return from_function("toy-2", partial, lambda s: [5, *(LETTERS[c] for c in s)], special=(5,))

    encoders.register_encoder("toy-2", lambda dtype: toy(1.0))
    ours = encoders.load("toy-2")
    assert [ours.features(i) for i in range(ours.num_layers)] == [3, 6]
    tokens, mask, pool = tokenize(ours, ["AC"])
    assert (mask.sum(), pool.sum()) == (3, 2)
    np.testing.assert_array_equal(ours.apply(tokens, mask, (-1,))[-1][0, 1], [3, 4, 5, 9, 16, 25])
    assert toy(1.0).weights_digest == ours.weights_digest != toy(2.0).weights_digest
    with pytest.raises(InputError, match="no token to pool"):
        ours.encode("")


@pytest.mark.parametrize("ids", [[1.7, 2.0], [2**32 + 5], [[1, 2]], [True]])
def test_ids_of_a_function_are_one_row_of_whole_numbers(ids):
    with pytest.raises(InputError, match="encode: toy-3 gives .* one row of whole numbers below 2"):
        from_function("toy-3", sums_to_here, lambda sequence: np.array(ids)).encode("AC")


def test_a_batch_of_arrays_has_their_widest_type():
    small, large = np.ones((4, 2), np.float16), np.full((4, 2), 1e5, np.float32)
    (_, layers, _), *_ = from_arrays([small, large])
    assert layers[0].dtype == np.float32
    np.testing.assert_array_equal(layers[0][1], large)
    (_, layers, _), *_ = from_arrays([small, small])
    assert layers[0].dtype == np.float16


def test_closed_over_arrays_are_in_the_digest():
    def closed(scale):
        table = jnp.full((5, 2), scale)
        return from_function("closed", lambda tokens, mask: table[tokens], LETTERS).weights_digest

    assert closed(1.0) == closed(1.0) != closed(2.0)


@pytest.mark.parametrize("wrong", [lambda t, m: t, lambda t, m: jnp.zeros((3, 2)), lambda t, m: jnp.zeros((8, 2), int)])
def test_a_function_of_another_shape_is_refused(wrong):
    with pytest.raises(InputError, match=r"expected \(8, features\) floats"):
        from_function("wrong", wrong, LETTERS)


def test_arrays_come_back_once_padded_to_few_shapes(rng):
    arrays = [rng.normal(size=(n, 3)).astype(np.float32) for n in rng.integers(1, 60, 40)]
    masks = [np.arange(len(x)) % 3 != 1 for x in arrays]
    seen, shapes = {}, set()
    for rows, layers, pool in from_arrays(iter(arrays), iter(masks), token_budget=200):
        shapes.add(layers[0].shape)
        assert layers[0].shape[:2] == pool.shape
        for b, row in enumerate(rows):
            assert row not in seen
            seen[row] = layers[0][b][pool[b]]
        assert not pool[len(rows) :].any()
    assert len(shapes) <= 7
    for row, (x, mask) in enumerate(zip(arrays, masks)):
        np.testing.assert_array_equal(seen[row], x[mask])
    whole = list(from_arrays(np.ones((4, 8, 2), np.float32)))
    assert sum(len(rows) for rows, _, _ in whole) == 4


def test_bad_arrays_name_their_row():
    good = np.ones((3, 2), np.float32)
    for bad in (np.ones((3, 4), np.float32), np.ones(3, np.float32), np.full((3, 2), np.nan, np.float32)):
        with pytest.raises(InputError, match="row 1 "):
            list(from_arrays([good, bad]))
    with pytest.raises(InputError, match=r"row 1 is \(3, 2\) with a mask \(2,\)"):
        list(from_arrays([good, good], [np.ones(3, bool), np.ones(2, bool)]))
    with pytest.raises(TypeError, match="row 0 is int64"):
        list(from_arrays([np.ones((3, 2), np.int64)]))
    hidden = np.array([[np.nan, 1], [1, 1]], np.float32)
    (_, layers, _), *_ = from_arrays([hidden], [np.array([False, True])])
    assert np.isfinite(layers[0]).all()  # what is not pooled may be NaN and does not get out


def test_padding_invariance_holds_and_broken_encoders_are_found(bert):
    sequences = ["ACDEFGHIKL", "MW", "ACACACAC"]
    assert check_padding_invariance(bert, sequences, layers=(0, 1, -1)) < 1e-5
    dna = ["ACGT", "AC", "GGGTA"]
    assert check_padding_invariance(from_function("toy", sums_to_here, LETTERS), dna) == 0.0

    def sees_padding(tokens, mask):  # the mean over the padded length, the classic mistake
        x = jax.nn.one_hot(tokens, 5)
        return x - x.mean(0)

    with pytest.raises(InputError, match="sequence 0 changes by .* at layer -1"):
        check_padding_invariance(from_function("broken", sees_padding, LETTERS), dna)

    def makes_nan(tokens, mask):
        return jnp.where(mask.all(), 1.0, jnp.nan) * jax.nn.one_hot(tokens, 5)

    with pytest.raises(InputError, match="sequence 0 changes by nan"):
        check_padding_invariance(from_function("nan", makes_nan, LETTERS), dna)
    with pytest.raises(InputError, match="at least two"):
        check_padding_invariance(bert, ["A"])


def test_norm_report_finds_the_planted_sink():
    def sink(tokens, mask):  # letter T has 50 times the norm of the others
        return jnp.where(tokens == LETTERS["T"], 50.0, 1.0)[:, None] * jnp.ones(4)

    report = norm_report(from_function("sink", sink, LETTERS), ["ACG", "ACGACGT", "GG"], layers=(0, -1))
    assert set(report) == {0, -1}
    layer = report[0]
    assert (layer.median, layer.largest) == (2.0, 100.0)
    assert layer.sink_share == 1 / 12
    (found,) = layer.sinks
    assert (found.row, found.position, found.token, found.ratio) == (1, 6, LETTERS["T"], 50.0)


def test_norm_report_of_arrays_and_of_nan():
    x = np.ones((6, 2), np.float32)
    x[4] = 30
    (found,) = norm_report(from_arrays([np.ones((3, 2), np.float32), x]))[0].sinks
    assert (found.row, found.position, found.token) == (1, 4, None)
    hidden = norm_report(from_arrays([x], [np.arange(6) != 4]))[0]
    assert (hidden.sinks, hidden.sink_share) == ((), 0.0)
    nan = from_function("nan", lambda t, m: jnp.where(t == 4, jnp.nan, 1.0)[:, None], LETTERS)
    with pytest.raises(InputError, match="sequence 1: NaN or infinity at layer 0"):
        norm_report(nan, ["AC", "GT"], (0,))
    with pytest.raises(InputError, match="no batch"):
        norm_report([])


def test_bad_sequences_are_refused(bert):
    for bad, message in {
        "": "has no token",
        "__": "special tokens alone",
        "ACx": "token 3, 'x', is not",
        "aC": "token 1, 'a', is not in the model's vocabulary; write it in upper case",
    }.items():
        with pytest.raises(InputError, match=message):
            bert.encode(bad)
    with pytest.raises(InputError, match="39 tokens, more than the 38 positions"):
        bert.encode("A" * 39)
    with pytest.raises(InputError, match="length: 3 is shorter than row 1 with 5 tokens"):
        tokenize(bert, ["A", "ACD"], 3)


@pytest.mark.usefixtures("unchecked")
def test_a_list_of_sequences_is_no_sequence(bert):
    """The verb of other libraries: there `encode` takes many and gives vectors."""
    function = from_function("one-hot", lambda tokens, mask: jax.nn.one_hot(tokens, 5), {"A": 1, "C": 2})
    for encode in (bert.encode, function.encode, lambda sequence: nucleotide_ids(sequence, {"A": 0})):
        with pytest.raises(InputError, match=r"one text is needed, got list; .* covjax\.Embedder\(encoder\)"):
            encode(["A", "C"])


def test_damaged_weights_are_named(tmp_path):
    from safetensors.numpy import save_file

    weights = write_bert(tmp_path, np.random.default_rng(0))
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()

    def refused(message, content):
        file.write_bytes(content)
        with pytest.raises(InputError, match=message):
            encoders.load(str(tmp_path))

    for part in (b"", whole[:5], whole[:200], whole[:-1], whole + b"x", b"PK\x03\x04" + whole):
        refused("not a complete safetensors file", part)
    refused("header is not a table", (9).to_bytes(8, "little") + b'{"a": 12}')
    refused("header is not a table", (2).to_bytes(8, "little") + b"[]")
    name = "encoder.layer.0.output.dense.bias"
    save_file(weights | {name: np.zeros(16, np.int32)}, file)
    with pytest.raises(InputError, match=f"tensor {name} is int32, expected floating point"):
        encoders.load(str(tmp_path))
    file.unlink()
    with pytest.raises(InputError, match=r"no file model\.safetensors"):
        encoders.load(str(tmp_path))


def test_bad_configurations_are_named(tmp_path):
    write_bert(tmp_path, np.random.default_rng(0))
    config = json.loads((tmp_path / "config.json").read_text())

    def refused(message, text):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=message):
            encoders.load(str(tmp_path))

    refused("not JSON", "{")
    refused("a JSON list, expected an object", "[]")
    refused("model_type None is not supported", "{}")
    refused(
        "position_embedding_type 'relative_key' is not",
        json.dumps(config | {"position_embedding_type": "relative_key"}),
    )
    refused("alibi_starting_size 512 is not supported", json.dumps(config | {"alibi_starting_size": 512}))
    refused(r"model_type \['bert'\] is not supported", json.dumps(config | {"model_type": ["bert"]}))
    refused("hidden_size is '16'", json.dumps(config | {"hidden_size": "16"}))
    refused("not a multiple of 3 heads", json.dumps(config | {"num_attention_heads": 3}))
    refused("25 tokens, but config.json says vocab_size 24", json.dumps(config | {"vocab_size": 24}))
    refused(
        r"word_embeddings.weight has shape \(25, 16\), expected \(26, 16\)", json.dumps(config | {"vocab_size": 26})
    )
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(InputError, match=r"no file vocab\.txt"):
        encoders.load(str(tmp_path))
    with pytest.raises(InputError, match="'nowhere' is not known; allowed: .*antiberty"):
        encoders.load("nowhere")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_loading_holds_no_second_copy_of_the_weights(tmp_path):
    """300 MB in four shards; `python -m tests.encoders.loading_memory FOLDER 2000` measures 2 GB the same way."""
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "tests.encoders.loading_memory", str(tmp_path), "300"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    ratio = float(done.stdout.split()[-1])
    assert 0.9 < ratio <= 1.3, done.stdout
