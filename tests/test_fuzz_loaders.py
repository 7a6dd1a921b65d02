"""Seeded mutations of valid model folders: what a plain reader finds in the file, or InputError in one line, else none.

A loaded encoder's parameters must be the numbers that safetensors or PyTorch reads of the encoder's tensors, its sizes,
epsilon and token numbers those of the JSON and the vocabulary; an autoencoder's latents and reconstructions those of a
float64 reference over what NumPy, safetensors and json read.
"""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from covjax import InputError, encoders
from covjax.autoencoders import load_saelens
from covjax.encoders.base import digest_weights
from tests import test_ntv3, test_spliceai
from tests.encoders.folders import write_bert
from tests.test_sae_layouts import by_sparsify, write_sparsify
from tests.test_sae_published import CLASSES, D, K, M, arrays, by_dictionary_learning, by_saelens, write_saelens

MUTATIONS, SEED = 110, 0
ODD = (None, [], {}, "x", -1, 0, 10**12, 1.5, True, False, float("nan"), 10**400, "relu", ["topk"], "none")
ESM_WORDS = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
SEQUENCE = "MKTAYWAC"
pytestmark = pytest.mark.filterwarnings("ignore")


def write_esm(folder, rng, d=8):
    config = {"model_type": "esm", "hidden_size": d, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"intermediate_size": 12, "vocab_size": 33, "max_position_embeddings": 20, "layer_norm_eps": 1e-5}
    config |= {"position_embedding_type": "rotary", "token_dropout": True, "emb_layer_norm_before": False}
    config |= {"pad_token_id": 1, "mask_token_id": 32, "architectures": ["EsmForMaskedLM"], "use_cache": True}
    at = "encoder.layer.0"
    shapes = {"embeddings.word_embeddings.weight": (33, d)}
    norms = (f"{at}.attention.LayerNorm", f"{at}.LayerNorm", "encoder.emb_layer_norm_after")
    shapes |= {f"{norm}.{part}": (d,) for norm in norms for part in ("weight", "bias")}
    for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
        shapes |= {f"{at}.{part}.weight": (d, d), f"{at}.{part}.bias": (d,)}
    shapes |= {f"{at}.intermediate.dense.weight": (12, d), f"{at}.intermediate.dense.bias": (12,)}
    shapes |= {f"{at}.output.dense.weight": (d, 12), f"{at}.output.dense.bias": (d,)}
    save_file(random_tensors({f"esm.{n}": s for n, s in shapes.items()} | {"cls.w": (3,)}, rng), folder / WEIGHTS)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(ESM_WORDS))


WEIGHTS = "model.safetensors"


def random_tensors(shapes, rng):
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_headed_bert(folder, rng):
    write_bert(folder, rng, d=8, blocks=1)
    save_file(load_file(folder / WEIGHTS) | random_tensors({"pooler.w": (3,), "q.bias": (2,)}, rng), folder / WEIGHTS)


def write_ntv3(folder, rng):
    test_ntv3.write(folder, rng, num_layers=1, num_downsamples=1)


def write_torch(file, tensors):
    torch = pytest.importorskip("torch")
    torch.save({name: torch.from_numpy(np.array(a, np.float32)) for name, a in tensors.items()}, file)


def write_dictionary(folder, rng, kind="BatchTopKSAE"):
    tensors = random_tensors(CLASSES[kind], rng)
    tensors = {name: np.abs(array) if name == "threshold" else array for name, array in tensors.items()}
    write_torch(folder / "ae.pt", tensors)
    config = {"dict_class": kind, "activation_dim": D, "dict_size": M, "k": K, "lr": 1e-4, "steps": 9}
    (folder / "config.json").write_text(json.dumps({"trainer": config, "buffer": {"d_submodule": D}}))


def write_gemma(folder, rng):
    tensors = {name.replace("W_", "w_"): array for name, array in arrays(rng, threshold=(M,)).items()}
    np.savez(folder / "params.npz", **tensors)


def write_jumprelu(folder, rng):
    fields = {"architecture": "jumprelu", "activation_fn_str": "relu", "apply_b_dec_to_input": False, "lr": 1e-4}
    fields |= {
        "normalize_activations": "none",
        "finetuning_scaling_factor": False,
        "hook_name": "a",
        "dtype": "float32",
    }
    write_saelens(folder, arrays(rng, threshold=(M,)), fields)


def write_topk(folder, rng):
    fields = {"architecture": "topk", "activation_fn_kwargs": {"k": K}, "rescale_acts_by_decoder_norm": True}
    write_saelens(folder, arrays(rng), fields | {"metadata": {"sae_lens_version": "6.0"}})


# Mutations: each changes one file of the folder, or says that it does not apply to that one.


def flip(rng, content):
    place = rng.integers(len(content))
    return content[:place] + bytes([content[place] ^ (1 << rng.integers(8))]) + content[place + 1 :]


def cut(rng, content):
    return content[: rng.integers(len(content))]


def insert(rng, content):
    place = rng.integers(len(content) + 1)
    return content[:place] + rng.bytes(int(rng.integers(1, 9))) + content[place:]


def blank(rng, content):
    place = rng.integers(len(content))
    size = int(rng.integers(1, 40))
    return content[:place] + bytes(min(size, len(content) - place)) + content[place + size :]


def change_json(rng, file):
    """Delete a key or give it another value, at the top or one level down."""
    value = json.loads(file.read_text())
    inner = [v for v in value.values() if isinstance(v, dict) and v]
    place = inner[rng.integers(len(inner))] if inner and rng.random() < 0.5 else value
    key = list(place)[rng.integers(len(place))]
    if rng.random() < 0.3:
        del place[key]
    else:
        place[key] = ODD[rng.integers(len(ODD))]
    file.write_text(json.dumps(value))


def rename_tensor(rng, file):
    tensors = load_file(file)
    name = sorted(tensors)[rng.integers(len(tensors))]
    place = rng.integers(len(name))
    tensors[name[:place] + chr(rng.integers(97, 123)) + name[place + 1 :]] = tensors.pop(name)
    save_file(tensors, file)


def mutate(folder, rng):
    files = sorted(folder.iterdir())
    file = files[rng.integers(len(files))]
    if file.suffix == ".json" and rng.random() < 0.8:
        change_json(rng, file)
    elif file.suffix == ".safetensors" and rng.random() < 0.4:
        rename_tensor(rng, file)
    else:
        content = file.read_bytes()
        file.write_bytes((flip, flip, cut, insert, blank)[rng.integers(5)](rng, content))
    return file.name


def numbers(arrays_):
    return np.sort(np.concatenate([np.asarray(a, np.float32).reshape(-1) for a in arrays_])).view(np.int32)


def check_encoder(folder, base, parts, trim=None):
    """The parameters are the file's numbers; sizes and epsilon are those of the JSON."""
    model = encoders.load(str(folder))
    stored = {name.removeprefix(base): array for name, array in load_file(folder / WEIGHTS).items()}
    head = "core.lm_head.head"  # of NTv3, where its weight is there
    parts += (f"{head}.weight", f"{head}.bias") if f"{head}.weight" in stored else ()
    own = {name: array for name, array in stored.items() if name.startswith(parts)}
    if trim:
        own = {name: trim(name, array) for name, array in own.items()}
    ours = jax.tree.leaves(nnx.state(model, nnx.Param))
    np.testing.assert_array_equal(numbers(ours), numbers(own.values()))
    return model, json.loads((folder / "config.json").read_text())


def check_transformer(folder, base, eps, expected_ids):
    model, config = check_encoder(folder, base, ("embeddings.", "encoder."), first_type)
    assert model.num_layers == config["num_hidden_layers"] + 1
    assert model.blocks[0].heads == config["num_attention_heads"]
    assert model.blocks[0].norm_mlp.eps == config.get("layer_norm_eps", eps)
    try:
        ids = model.encode(SEQUENCE).tolist()
    except InputError:
        return  # a letter that the changed vocabulary lacks
    assert ids == expected_ids(folder)


def first_type(name, array):
    return array[:1] if "token_type" in name else array


def bert_ids(folder):
    lines = [line.strip(" \t") for line in (folder / "vocab.txt").read_text().rstrip("\n").split("\n")]
    table = {line: number for number, line in enumerate(lines)}
    if any(len(line) > 1 and line[0] != "[" for line in lines):  # read as words
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder)(SEQUENCE)["input_ids"]
    return [table[token] for token in ("[CLS]", *SEQUENCE, "[SEP]")]


def esm_ids(folder):
    from transformers import EsmTokenizer

    return EsmTokenizer.from_pretrained(folder)(SEQUENCE)["input_ids"]


def check_ntv3(folder):
    names = ("core.embed", "core.stem", "core.conv_", "core.deconv", "core.transformer")
    model, config = check_encoder(folder, "", names)
    assert (len(model.blocks), model.multiple) == (config["num_layers"], 2 ** config["num_downsamples"])
    assert model.blocks[0].norm_mlp.eps == config.get("layer_norm_eps", 1e-5)
    assert model.skip == config.get("use_skip_connection", True)


def by_torch(torch, folder, name):
    """What PyTorch reads; of a file whose bookkeeping alone is damaged, which it refuses, the undamaged tensors."""
    try:
        state = torch.load(folder / name, weights_only=True)
    except Exception:
        state = torch.load(folder.parent / "whole" / name, weights_only=True)
    return {key: tensor.numpy() for key, tensor in state.items()}


def check_spliceai(folder):
    torch = pytest.importorskip("torch")
    model = encoders.load(str(folder / "m.pt"))
    assert model.weights_digest == digest_weights(by_torch(torch, folder, "m.pt"))


X = np.random.default_rng(5).normal(size=(8, D)).astype(np.float32)


def check_codes(module, z, reconstruction, tensors):
    if max(float(np.abs(a).max()) for a in tensors.values()) < 1e4:
        np.testing.assert_allclose(module.encode(X), z, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(module(X), reconstruction, rtol=1e-3, atol=1e-2)


def check_saelens(folder):
    module = load_saelens(folder)
    fields, tensors = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae_weights.safetensors")
    assert (module.features, module.latents) == (fields["d_in"], fields["d_sae"])
    kind = type(module).__name__
    assert kind == {"topk": "TopK", "jumprelu": "JumpReLU"}.get(fields.get("architecture", "standard"), "ReLU")
    check_codes(module, *by_saelens(tensors, fields, X), tensors)


def check_dictionary(folder):
    torch = pytest.importorskip("torch")
    module = load_saelens(folder)
    tensors = by_torch(torch, folder, "ae.pt")
    kind = json.loads((folder / "config.json").read_text())["trainer"]["dict_class"]
    check_codes(module, *by_dictionary_learning(kind, tensors, X), tensors)


def check_sparsify(folder):
    module, tensors = load_saelens(folder), load_file(folder / "sae.safetensors")
    x = X[:, : module.features]
    if max(float(np.abs(a).max()) for a in tensors.values()) < 1e4:
        z, reconstruction = by_sparsify(tensors, json.loads((folder / "cfg.json").read_text())["k"], x)
        np.testing.assert_allclose(module.encode(x), z, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(module(x), reconstruction, rtol=1e-3, atol=1e-2)


def check_gemma(folder):
    module = load_saelens(folder)
    with np.load(folder / "params.npz") as file:
        tensors = {name.replace("w_", "W_"): file[name] for name in file.files}
    fields = {"architecture": "jumprelu", "apply_b_dec_to_input": False}
    check_codes(module, *by_saelens(tensors, fields, X), tensors)


def write_spliceai(folder, rng):
    write_torch(folder / "m.pt", test_spliceai.random_weights(rng, 1))


LOADERS = {
    "bert": (write_headed_bert, lambda folder: check_transformer(folder, "", 1e-12, bert_ids)),
    "esm": (write_esm, lambda folder: check_transformer(folder, "esm.", 1e-12, esm_ids)),
    "ntv3": (write_ntv3, check_ntv3),
    "spliceai": (write_spliceai, check_spliceai),
    "saelens jumprelu": (write_jumprelu, check_saelens),
    "saelens topk": (write_topk, check_saelens),
    "dictionary_learning": (write_dictionary, check_dictionary),
    "sparsify": (write_sparsify, check_sparsify),
    "gemma scope": (write_gemma, check_gemma),
}


@pytest.mark.parametrize("loader", LOADERS)
def test_a_mutated_folder_is_read_as_it_stands_or_refused_in_one_line(tmp_path, loader):
    write, check = LOADERS[loader]
    rng = np.random.default_rng(sum(loader.encode()) + SEED)
    whole, folder = tmp_path / "whole", tmp_path / "mutated"
    whole.mkdir()
    write(whole, rng)
    check(whole)
    messages = []
    for number in range(MUTATIONS):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        name = mutate(folder, rng)
        with np.errstate(all="ignore"):
            try:
                check(folder)
            except InputError as error:
                messages.append(str(error))
            except Exception as error:
                raise AssertionError(f"mutation {number} of {name}: {type(error).__name__}: {error}") from error
    assert len(messages) > 0.3 * MUTATIONS  # and what was read is what the plain reader reads
    assert not any("\n" in message or len(message) > 700 for message in messages)
