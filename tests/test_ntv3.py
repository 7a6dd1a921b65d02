"""Nucleotide Transformer v3 against a float64 NumPy reference of the architecture; parameter counts; bad folders."""

import json
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from covjax.encoders import check_padding_invariance, load, tokenize
from covjax.errors import InputError

SMALL = {"model_type": "ntv3", "alphabet_size": 11, "token_embed_dim": 6, "conv_init_embed_dim": 8, "embed_dim": 12}
SMALL |= {"ffn_embed_dim": 20, "num_layers": 2, "num_downsamples": 3, "attention_heads": 2, "key_size": 6}
SMALL |= {"deconv_upsample_type": "conv_transpose", "layer_norm_eps": 1e-5, "pad_token_id": 1, "mask_token_id": 2}
SMALL |= {"stem_compute_dtype": "float32", "use_remat_in_convs": False, "num_hidden_layers_head": 0}
SEQUENCES = ["ACGTNNACGTTTGACGGTAAG", "gat", "TTAGGCAT" * 4, "GATTACA" * 7]


def shapes(config):
    """Names and shapes of a checkpoint, the head included."""
    widths = np.linspace(config["conv_init_embed_dim"], config["embed_dim"], config["num_downsamples"] + 1).astype(int)
    d, inner, token = config["embed_dim"], config["ffn_embed_dim"], config["token_embed_dim"]
    found = {"embed_layer.weight": (11, token), "lm_head.head.weight": (11, widths[0]), "lm_head.head.bias": (11,)}
    found |= {"stem.conv.weight": (widths[0], token, 15), "stem.conv.bias": (widths[0],)}
    pairs = list(pairwise(widths))
    transposed = config["deconv_upsample_type"] == "conv_transpose"
    for tower, blocks in (("conv", pairs), ("deconv", [(b, a) for a, b in reversed(pairs)])):
        for i, (a, b) in enumerate(blocks):
            at = f"{tower}_tower_blocks.{i}"
            found[f"{at}.conv.conv.weight"] = (a, b, 5) if tower == "deconv" and transposed else (b, a, 5)
            found[f"{at}.res_conv.conv_block.conv.weight"] = (b, b, 1)
            found |= {f"{at}.conv.conv.bias": (b,), f"{at}.res_conv.conv_block.conv.bias": (b,)}
            for norm, width in ((f"{at}.conv.layer_norm", a), (f"{at}.res_conv.conv_block.layer_norm", b)):
                found |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for i in range(config["num_layers"]):
        at = f"transformer_blocks.{i}"
        for norm in ("self_attention_layer_norm", "final_layer_norm"):
            found |= {f"{at}.{norm}.weight": (d,), f"{at}.{norm}.bias": (d,)}
        for part in ("query_head.linear", "key_head.linear", "value_head.linear", "mha_output"):
            found |= {f"{at}.sa_layer.{part}.weight": (d, d), f"{at}.sa_layer.{part}.bias": (d,)}
        found |= {f"{at}.fc1.weight": (2 * inner, d), f"{at}.fc2.weight": (d, inner)}
    return {f"core.{name}": tuple(map(int, shape)) for name, shape in found.items()}


def write(folder, rng, change=(), **options):
    """A folder with random weights; returns (its name, tensors). `change` is applied to the tensors."""
    config = {**SMALL, **options}
    weights = {}
    for name, shape in shapes(config).items():
        scale = np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.3
        weights[name] = (rng.normal(size=shape) * scale + ("norm.weight" in name)).astype(np.float32)
    weights |= dict(change)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    save_file({name: array for name, array in weights.items() if array is not None}, folder / "model.safetensors")
    return str(folder), weights


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def reference(config, weights, sequence):
    """The three layers in float64 for one sequence, filled up with N; convolutions tap by tap."""
    w = {name.removeprefix("core."): array.astype(np.float64) for name, array in weights.items()}
    multiple = 2 ** config["num_downsamples"]
    padded = sequence.upper() + "N" * (-len(sequence) % multiple)
    x = w["embed_layer.weight"][[6 + "ATCGN".index(letter) for letter in padded]]

    def conv(x, name):
        kernel, out = w[f"{name}.weight"], np.zeros((len(x), len(w[f"{name}.bias"])))
        half = kernel.shape[2] // 2
        for t in range(len(x)):
            for k in range(kernel.shape[2]):
                if 0 <= t + k - half < len(x):
                    out[t] += kernel[:, :, k] @ x[t + k - half]
        return out + w[f"{name}.bias"]

    def scatter(x, name):
        kernel, out = w[f"{name}.weight"], np.zeros((2 * len(x), len(w[f"{name}.bias"])))
        for i in range(len(x)):
            for k in range(5):
                if 0 <= 2 * i + 3 - k < len(out):
                    out[2 * i + 3 - k] += x[i] @ kernel[:, :, k]
        return out + w[f"{name}.bias"]

    def norm(x, name):
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return y * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = gelu(conv(x, "stem.conv"))
    layers, skips = [x], []
    for i in range(config["num_downsamples"]):
        at = f"conv_tower_blocks.{i}"
        skips.append(x)
        x = gelu(conv(norm(x, f"{at}.conv.layer_norm"), f"{at}.conv.conv"))
        inner = f"{at}.res_conv.conv_block"
        x = x + gelu(conv(norm(x, f"{inner}.layer_norm"), f"{inner}.conv"))
        layers += [x] if i == 0 else []
        x = x.reshape(-1, 2, x.shape[1]).mean(1)
    heads, width = config["attention_heads"], config["key_size"]
    angle = np.arange(len(x))[:, None, None] * 10000.0 ** (-np.arange(0, width, 2) / width)

    def rotate(x):
        turned = (x[..., : width // 2] + 1j * x[..., width // 2 :]) * np.exp(1j * angle)
        return np.concatenate([turned.real, turned.imag], -1)

    for i in range(config["num_layers"]):
        at = f"transformer_blocks.{i}"
        y = norm(x, f"{at}.self_attention_layer_norm")
        linear = lambda y, name: y @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)
        q, k, v = (
            linear(y, f"{at}.sa_layer.{part}_head.linear").reshape(-1, heads, width)
            for part in ("query", "key", "value")
        )
        logits = np.exp(np.einsum("qhc,khc->hqk", rotate(q), rotate(k)) / np.sqrt(width))
        mixed = np.einsum("hqk,khc->qhc", logits / logits.sum(-1, keepdims=True), v).reshape(len(x), -1)
        x = x + linear(mixed, f"{at}.sa_layer.mha_output")
        first, second = np.split(linear(norm(x, f"{at}.final_layer_norm"), f"{at}.fc1"), 2, -1)
        x = x + linear(first / (1 + np.exp(-first)) * second, f"{at}.fc2")
    for i in range(config["num_downsamples"]):
        at = f"deconv_tower_blocks.{i}"
        y = norm(x, f"{at}.conv.layer_norm")
        if config["deconv_upsample_type"] == "conv_transpose":
            x = gelu(scatter(y, f"{at}.conv.conv"))
        else:
            x = gelu(conv(np.repeat(y, 2, 0), f"{at}.conv.conv"))
        inner = f"{at}.res_conv.conv_block"
        kernel = w[f"{inner}.conv.weight"][:, :, 0]  # (inputs, outputs)
        x = x + gelu(norm(x, f"{inner}.layer_norm") @ kernel + w[f"{inner}.conv.bias"])
        x = x + skips.pop() if config.get("use_skip_connection", True) else x
    return [*layers, x]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"deconv_upsample_type": "repeat+conv"},
        {"use_skip_connection": False, "deconv_upsample_type": "DeConvUpsampleType.CONV_TRANSPOSE"},
        {"conv_init_embed_dim": 12, "num_downsamples": 5},
    ],
    ids=["transposed", "repeat", "no skip", "5 downsamples"],
)
def test_every_layer_matches_float64(tmp_path, rng, options):
    plain = {**options, "deconv_upsample_type": "conv_transpose"} if "use_skip_connection" in options else options
    name, weights = write(tmp_path / "model", rng, **plain)
    config = {**SMALL, **plain}
    if plain != options:
        (tmp_path / "model" / "config.json").write_text(json.dumps({**config, **options}))
    model = load(name)
    tokens, mask, pool = tokenize(model, SEQUENCES)
    assert tokens.shape[1] % 2 ** config["num_downsamples"] == 0
    found = model.apply(tokens, mask, (0, 1, 2, -1))
    for row, sequence in enumerate(SEQUENCES):
        assert pool[row].sum() == len(sequence)
        expected = reference(config, weights, sequence)
        for layer in range(3):
            n = len(expected[layer])
            assert np.abs(expected[layer]).max() < 20  # activations of about unit scale
            np.testing.assert_allclose(found[layer][row, :n], expected[layer], atol=2e-5, rtol=0)
            assert not np.asarray(found[layer][row, n:]).any()
            assert found[layer].shape[-1] == model.features(layer)
    np.testing.assert_array_equal(found[-1], found[2])


@pytest.mark.slow
def test_padding_and_batch_do_not_change_a_base(tmp_path, rng):
    model = load(write(tmp_path / "model", rng)[0])
    assert check_padding_invariance(model, SEQUENCES, (0, 1, 2), 1e-5) < 1e-5
    tokens, mask, pool = tokenize(model, SEQUENCES, 60)
    assert tokens.shape == (4, 64)
    np.testing.assert_array_equal(mask.sum(1), [24, 8, 32, 56])
    np.testing.assert_array_equal(pool.sum(1), [21, 3, 32, 49])
    found = model.apply(np.where(mask, tokens, 1), mask, (-1,))[-1]
    np.testing.assert_array_equal(found, model.apply(tokens, mask, (-1,))[-1])
    with pytest.raises(InputError, match="mask: it ends inside a bin of 8 tokens"):
        model.apply(tokens, pool, (-1,))
    with pytest.raises(InputError, match="length: 48 is shorter than row 3"):
        tokenize(model, SEQUENCES, 48)


# Published counts of the 8M and 100M models; 651.83 million is what users report of the 650M one.
@pytest.mark.parametrize(
    ("width", "layers", "heads", "count"), [(256, 2, 8, 7_692_475), (768, 6, 12, 106_463_419), (1536, 12, 24, None)]
)
def test_parameters_count_what_the_authors_state(width, layers, heads, count):
    config = {**SMALL, "token_embed_dim": 16, "conv_init_embed_dim": width, "embed_dim": width}
    config |= {"ffn_embed_dim": 4 * width, "num_layers": layers, "num_downsamples": 7, "attention_heads": heads}
    total = sum(int(np.prod(shape)) for shape in shapes(config).values())
    if count is None:
        assert round(total / 1e4) == 65183
    else:
        assert total == count


@pytest.mark.long
def test_the_8m_size_loads_and_runs(tmp_path, rng):
    options = {"token_embed_dim": 16, "conv_init_embed_dim": 256, "embed_dim": 256, "ffn_embed_dim": 1024}
    options |= {"num_downsamples": 7, "attention_heads": 8, "key_size": 32}
    model = load(write(tmp_path / "model", rng, **options)[0], jnp.bfloat16)
    tokens, mask, _ = tokenize(model, SEQUENCES)
    found = model.apply(tokens, mask, (-1,))[-1]
    assert found.shape == (4, 128, 256)
    assert found.dtype == jnp.bfloat16
    exact = load(str(tmp_path / "model")).apply(tokens, mask, (-1,))[-1]
    np.testing.assert_allclose(found.astype(np.float32), exact, atol=0.1 * float(exact.std()))


def test_encode_refuses_by_name(tmp_path, rng):
    model = load(write(tmp_path / "model", rng)[0])
    np.testing.assert_array_equal(model.encode("atCGN"), [6, 7, 8, 9, 10])
    with pytest.raises(InputError, match="'R' at position 3; allowed: ATCGN"):
        model.encode("ACr")
    with pytest.raises(InputError, match="the sequence is empty"):
        model.encode("")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deconv_phase": "even"}, "deconv_phase 'even' is not supported; allowed: .*odd"),
        ({"deconv_upsample_type": None}, "deconv_upsample_type 'none' is not supported"),
        ({"bigwigs_per_species": {}}, "bigwigs_per_species {} is not supported"),
        ({"alphabet_size": 12}, r"alphabet_size 12 is not supported; allowed: \(11,\)"),
        ({"num_downsamples": 0}, "num_downsamples is 0, expected a positive integer"),
        ({"key_size": 5}, "key_size 5 is not even and embed_dim / attention_heads"),
    ],
)
def test_unsupported_options_are_named(tmp_path, rng, options, message):
    write(tmp_path / "model", rng)
    config = {key: value for key, value in {**SMALL, **options}.items() if value is not None}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        load(str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"core.stem.conv.bias": None}, "tensor core.stem.conv.bias is missing"),
        ({"core.cond_tables.0.weight": np.zeros((2, 2), np.float32)}, "unexpected tensor core.cond_tables.0.weight"),
        ({"core.deconv_tower_blocks.0.conv.conv.weight": np.zeros((10, 12, 5), np.float32)}, r"expected \(12, 10, 5\)"),
    ],
)
def test_missing_extra_and_misshaped_tensors_are_named(tmp_path, rng, change, message):
    name, _ = write(tmp_path / "model", rng, change)
    with pytest.raises(InputError, match=message):
        load(name)


def test_stored_rotary_frequencies_are_read(tmp_path, rng):
    frequencies = np.array([1, 0.5, 0.25], np.float32)
    names = [f"core.transformer_blocks.{i}.sa_layer.rotary_embedding.inv_freq" for i in range(2)]
    model = load(write(tmp_path / "model", rng, dict.fromkeys(names, frequencies))[0])
    np.testing.assert_array_equal(model.blocks[1].frequencies[...], frequencies)


def test_a_key_size_of_null_is_embed_dim_over_heads(tmp_path, rng):
    name, _ = write(tmp_path, rng)
    said = load(name)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"key_size": None}))
    unsaid = load(name)
    tokens, mask, _ = tokenize(said, SEQUENCES[:1])
    np.testing.assert_array_equal(unsaid.apply(tokens, mask, (-1,))[-1], said.apply(tokens, mask, (-1,))[-1])
