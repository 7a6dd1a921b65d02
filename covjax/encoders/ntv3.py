"""Nucleotide Transformer v3 (Boshar et al. 2025), pre-trained models: a U-Net over nucleotides around a Transformer.

Written from the published architecture; the weights have their own terms (non-commercial), which are the user's to
accept. Convolution blocks halve the length `num_downsamples` times, the Transformer works on bins of 2^num_downsamples
bases, and deconvolution blocks with skip connections lead back to single bases. The post-trained models (conditioned on
a species, with track heads) are refused by the options of their config.json.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from covjax.encoders.base import layer_index, nucleotide_ids, pad_rows
from covjax.encoders.heads import masked_tokens
from covjax.encoders.layers import Dense, Frequencies, LayerNorm, attended, attention, places, rotate, split_heads
from covjax.encoders.weights import Tensors, check_options, digest_settings, read_json
from covjax.errors import InputError, shown

VOCABULARY = ("<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>", "A", "T", "C", "G", "N")
LETTERS = {letter: number for number, letter in enumerate(VOCABULARY) if len(letter) == 1}
CONV_EPS = 1e-5  # of the layer norms before convolutions, whatever layer_norm_eps is
SIZES = (
    "alphabet_size", "token_embed_dim", "conv_init_embed_dim", "embed_dim", "ffn_embed_dim", "num_layers",
    "num_downsamples", "attention_heads", "key_size",
)  # fmt: skip
UPSAMPLING = {"conv_transpose": True, "repeat_conv": False, "repeat+conv": False}  # is it a transposed convolution
# What decides: sizes, `layer_norm_eps`, and what follows. Below: a key by which the post-trained models
# are known, which are conditioned on a species (their tensors of that are refused as well).
ALLOWED: dict[str, tuple[Any, ...]] = {
    "alphabet_size": (len(VOCABULARY),),
    "use_skip_connection": (True, False),
    "deconv_phase": ("odd",),
    "bigwigs_per_species": (None,),
}
DECIDING = (*SIZES, "layer_norm_eps", "use_skip_connection", "deconv_upsample_type")
UNUSED = (r"core\.lm_head\..*", r".*\.rotary_embedding\.(cos|sin)_cached")  # the head, buffers that are computed


def _convolve(x: Array, kernel: Array, padding: tuple[int, int]) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1,), [padding], dimension_numbers=("NWC", "WIO", "NWC"), preferred_element_type=jnp.float32
    )


class Conv(nnx.Module):
    """A convolution over bases with zeros beyond both ends, or, transposed, one that doubles the length.

    `up` of 2: x_i stands at place 2i + 1 among zeros (`deconv_phase: odd`), by which nothing is multiplied. Products
    add up in float32.
    """

    def __init__(
        self, tensors: Tensors, name: str, inputs: int, outputs: int, width: int, transposed: bool = False, up: int = 1
    ):
        # Kernels are (outputs, inputs, width) in the file, (inputs, outputs, width) of transposed convolutions.
        shape = (inputs, outputs, width) if transposed else (outputs, inputs, width)
        axes = (2, 0, 1) if transposed else (2, 1, 0)
        self.kernel = nnx.Param(jnp.asarray(tensors.take(f"{name}.weight", *shape).transpose(axes)))
        self.bias = nnx.Param(jnp.asarray(tensors.take(f"{name}.bias", outputs)))
        self.up, self.half = up, width // 2

    def __call__(self, x: Float[Array, "b t inputs"]) -> Float[Array, "b t2 outputs"]:
        """Of the same length, or of `up` times the length."""
        kernel = self.kernel[...]
        if self.up == 1:
            y = _convolve(x, kernel, (self.half, self.half))
        else:  # of the five places under the kernel, an even base has x at the odd ones, an odd base at the even ones
            y = jnp.stack([_convolve(x, kernel[1::2], (1, 0)), _convolve(x, kernel[::2], (1, 1))], 2)
            y = y.reshape(len(x), -1, y.shape[-1])
        return (y + self.bias[...]).astype(x.dtype)


class ConvBlock(nnx.Module):
    """y = gelu(conv(norm(x))), then y + gelu(conv(norm(y))) with a kernel of one base; `up` doubles the length."""

    def __init__(
        self, tensors: Tensors, name: str, inputs: int, outputs: int, up: bool = False, transposed: bool = False
    ):
        self.norm = LayerNorm(tensors, f"{name}.conv.layer_norm", inputs, CONV_EPS)
        self.conv = Conv(tensors, f"{name}.conv.conv", inputs, outputs, 5, transposed, 2 if transposed else 1)
        self.repeat = up and not transposed
        inner = f"{name}.res_conv.conv_block"
        self.inner_norm = LayerNorm(tensors, f"{inner}.layer_norm", outputs, CONV_EPS)
        # The kernel of one base is stored as a transposed convolution in every deconvolution block.
        self.inner_conv = Conv(tensors, f"{inner}.conv", outputs, outputs, 1, transposed=up)

    def __call__(self, x: Float[Array, "b t inputs"], mask: Bool[Array, "b t"]) -> Float[Array, "b t2 outputs"]:
        """Masked positions are the zeros beyond the end of a sequence."""
        y = jnp.where(mask[..., None], self.norm(x), 0)
        y = jax.nn.gelu(self.conv(jnp.repeat(y, 2, axis=1) if self.repeat else y), approximate=True)
        return y + jax.nn.gelu(self.inner_conv(self.inner_norm(y)), approximate=True)


class TransformerBlock(nnx.Module):
    """x + attention(norm(x)) with rotary positions, then x + down(silu(first half) ∘ second half of up(norm(x)))."""

    def __init__(self, tensors: Tensors, name: str, config: dict[str, Any]):
        d, inner, eps = config["embed_dim"], config["ffn_embed_dim"], config["layer_norm_eps"]
        self.heads, width = config["attention_heads"], config["key_size"]
        stored = f"{name}.sa_layer.rotary_embedding.inv_freq"
        computed = (10000.0 ** (-np.arange(0, width, 2) / width)).astype(np.float32)
        in_file = stored in tensors
        self.frequencies = Frequencies(tensors.take(stored, width // 2, dtype=np.float32) if in_file else computed)
        self.norm_attention = LayerNorm(tensors, f"{name}.self_attention_layer_norm", d, eps)
        self.qkv = Dense(tensors, [f"{name}.sa_layer.{part}_head.linear" for part in ("query", "key", "value")], d, d)
        self.out = Dense(tensors, [f"{name}.sa_layer.mha_output"], d, d)
        self.norm_mlp = LayerNorm(tensors, f"{name}.final_layer_norm", d, eps)
        self.up = Dense(tensors, [f"{name}.fc1"], d, 2 * inner, bias=False)
        self.down = Dense(tensors, [f"{name}.fc2"], inner, d, bias=False)

    def __call__(self, x: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b t d"]:
        """One block; masked bins are attended by none."""
        q, k, v = split_heads(self.qkv(self.norm_attention(x)), self.heads)
        q, k = (rotate(part, self.frequencies[...], places(mask)) for part in (q, k))
        x = x + self.out(attention(q, k, v, attended(mask)))
        gate, value = jnp.split(self.up(self.norm_mlp(x)), 2, -1)
        return x + self.down(jax.nn.silu(gate) * value)


class NTv3(nnx.Module):
    """The frozen encoder (see `covjax.encoders.Encoder`). Layers, all of them one vector per base:

    0, the stem (first convolution); 1, the first convolution block before its pooling; 2 = −1, the last deconvolution
    block with its skip connection, the authors' final embedding. Those in between are one vector per 2, 4, … bases and
    have no place in an encoder of tokens. A sequence is filled up with N to a multiple of `multiple` bases, which the
    model sees as the authors' does, and which is never pooled; longer padding, of a batch, is beyond the sequence's end
    and changes nothing.
    """

    letters = "dna"

    def __init__(self, name: str, folder: Path, dtype: Any = jnp.float32, tensors: Tensors | None = None):
        config = _read_config(folder)
        tensors = _read_tensors(folder, dtype, config["num_downsamples"]) if tensors is None else tensors
        self.name, self.num_layers, self.multiple = name, 3, 2 ** config["num_downsamples"]
        widths = np.linspace(config["conv_init_embed_dim"], config["embed_dim"], config["num_downsamples"] + 1)
        self.widths = tuple(int(width) for width in widths)
        table = tensors.take("core.embed_layer.weight", config["alphabet_size"], config["token_embed_dim"])
        self.embedding = nnx.Param(jnp.asarray(table))
        self.stem = Conv(tensors, "core.stem.conv", config["token_embed_dim"], self.widths[0], 15)
        self.down = nnx.List(
            ConvBlock(tensors, f"core.conv_tower_blocks.{i}", inputs, outputs)
            for i, (inputs, outputs) in enumerate(zip(self.widths, self.widths[1:]))
        )
        self.blocks = nnx.List(
            TransformerBlock(tensors, f"core.transformer_blocks.{i}", config) for i in range(config["num_layers"])
        )
        transposed = UPSAMPLING[config["deconv_upsample_type"]]
        self.up = nnx.List(
            ConvBlock(tensors, f"core.deconv_tower_blocks.{i}", inputs, outputs, up=True, transposed=transposed)
            for i, (inputs, outputs) in enumerate(zip(self.widths[::-1], self.widths[-2::-1]))
        )
        self.skip = config["use_skip_connection"]
        weights = tensors.finish(UNUSED)  # before the head, on which no activation depends
        self.weights_digest = digest_settings(weights, [config.get(name) for name in DECIDING])
        head = "core.lm_head.head"
        headed = f"{head}.weight" in tensors
        self.head: Any = Dense(tensors, [head], self.widths[0], config["alphabet_size"]) if headed else None

    @property
    def has_head(self) -> bool:
        """Whether the folder has the head of masked prediction."""
        return self.head is not None

    def objective(
        self,
        tokens: Int[np.ndarray, "b t"],
        mask: Bool[np.ndarray, "b t"],
        pool: Bool[np.ndarray, "b t"],
        rng: np.random.Generator,
    ) -> tuple[Int[np.ndarray, "b t"], Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """15 % of the pooled bases of every sequence are masked, at least one; see `HeadedEncoder`."""
        return masked_tokens(tokens, pool, VOCABULARY.index("<mask>"), rng)

    def logits(
        self, activations: Float[Array | np.ndarray, "b t d"], mask: Bool[np.ndarray, "b t"], layer: int
    ) -> Float[Array, "b t classes"]:
        """Of every letter of the vocabulary, from the last layer alone; see `HeadedEncoder`.

        Raises InputError for another layer: between it and the last one stand connections around it.
        """
        if layer != self.num_layers - 1:
            raise InputError(f"layer: {layer}: the head of {self.name} reads layer {self.num_layers - 1} alone")
        return self.head(jnp.asarray(activations)).astype(jnp.float32)

    def token_logits(self, tokens: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b t letters"]:
        """Of every letter of the vocabulary, in float32; a pure function of the arguments and the parameters.

        Only of models whose folder has the head of masked prediction.
        """
        return self.head(self.hidden_states(tokens, mask)[-1]).astype(jnp.float32)

    def features(self, layer: int) -> int:
        """Width of one token at a layer."""
        return (self.widths[0], self.widths[1], self.widths[0])[layer_index(layer, self.num_layers)]

    def encode(self, sequence: str) -> Int[np.ndarray, "t"]:
        """One token per nucleotide, no special ones; lower case is read as upper case, N is a letter of its own.

        Raises InputError naming the first other letter, IUPAC's ambiguity codes among them, and its position, counted
        from 1, and for an empty sequence.
        """
        return nucleotide_ids(sequence, LETTERS)

    def pad(
        self, rows: Sequence[Int[np.ndarray, "_"]], length: int
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """N up to the next multiple, which the model sees, and beyond it, which it does not; letters are pooled."""
        tokens, pool = pad_rows(rows, length, LETTERS["N"])
        rest = ((0, 0), (0, -length % self.multiple))
        tokens, pool = np.pad(tokens, rest, constant_values=LETTERS["N"]), np.pad(pool, rest)
        seen = -(-pool.sum(1) // self.multiple) * self.multiple
        return tokens, np.arange(tokens.shape[1]) < seen[:, None], pool

    def apply(
        self, tokens: Int[np.ndarray, "b t"], mask: Bool[np.ndarray, "b t"], layers: tuple[int, ...]
    ) -> dict[int, Float[Array, "b t d"]]:
        """Activations of the asked layers, jitted; masked tokens are zeroed.

        Raises InputError for a mask whose edges are not at multiples of `multiple`: use `pad`.
        """
        numbers = {layer: layer_index(layer, self.num_layers) for layer in layers}
        whole = tokens.shape[1] % self.multiple == 0
        bins = np.asarray(mask).reshape(len(mask), -1, self.multiple) if whole else None
        if bins is None or (bins.any(-1) != bins.all(-1)).any():
            raise InputError(f"mask: it ends inside a bin of {self.multiple} tokens, which `pad` fills up")
        found = _apply(*nnx.split(self), tokens, mask, tuple(sorted(set(numbers.values()))))
        return {layer: found[number] for layer, number in numbers.items()}

    def hidden_states(self, tokens: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> list[Float[Array, "b t d"]]:
        """All three layers; a pure function of the arguments and the parameters."""
        x = jnp.where(mask[..., None], self.embedding[...][tokens], 0)
        x = jax.nn.gelu(self.stem(x), approximate=True)
        skips, masks, states = [], [mask], [x]
        for i, down in enumerate(self.down):
            skips.append(x)
            x = down(x, masks[-1])
            if i == 0:
                states.append(x)
            x = (x[:, ::2] + x[:, 1::2]) / 2
            masks.append(masks[-1][:, ::2])
        for block in self.blocks:
            x = block(x, masks[-1])
        for level, up in zip(range(len(self.down), 0, -1), self.up):
            x = up(x, masks[level])
            x = x + skips[level - 1] if self.skip else x
        return [*states, x]


@functools.partial(jax.jit, static_argnums=(0, 4))
def _apply(graph: Any, state: Any, tokens: Array, mask: Array, layers: tuple[int, ...]) -> dict[int, Array]:
    states = nnx.merge(graph, state).hidden_states(tokens, mask)
    return {i: jnp.where(mask[..., None], states[i], 0) for i in layers}


def _read_tensors(folder: Path, dtype: Any, downsamples: int) -> Tensors:
    tensors = Tensors(folder, dtype, parts=("core.",))
    levels = len({name.split(".")[2] for name in tensors if name.startswith("core.conv_tower_blocks.")})
    if downsamples != levels:
        raise InputError(
            f"{folder}/config.json: num_downsamples is {shown(downsamples)}; "
            f"the weights have {levels} blocks that halve the length"
        )
    return tensors


def _read_config(folder: Path) -> dict[str, Any]:
    """The options of config.json that decide, checked."""
    file = folder / "config.json"
    config = {"use_skip_connection": True, "deconv_phase": "odd", "layer_norm_eps": 1e-5, **read_json(file)}
    # Both spellings of the enumeration's members are in use, with and without its name.
    config["deconv_upsample_type"] = str(config.get("deconv_upsample_type")).split(".")[-1].lower()
    width, heads = config.get("embed_dim"), config.get("attention_heads")
    if config.get("key_size") is None and type(width) is type(heads) is int and heads > 0:
        config["key_size"] = width // heads  # what null means
    check_options(file, config, {**ALLOWED, "deconv_upsample_type": tuple(UPSAMPLING)}, list(SIZES))
    if config["key_size"] * config["attention_heads"] != config["embed_dim"] or config["key_size"] % 2:
        size = shown(config["key_size"])
        raise InputError(f"{file}: key_size {size} is not even and embed_dim / attention_heads")
    return config
