"""PyTorch models as encoders: PyTorch computes the hidden states and hands them to JAX by DLPack."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from covjax.data.letters import vocabulary_kind
from covjax.encoders.base import Encoder, check_text, layer_index, pad_rows
from covjax.encoders.loading import fetch
from covjax.encoders.sentence import SentenceSettings, read_settings
from covjax.errors import InputError, shown
from covjax.extras import need
from covjax.notes import note

# Learned positions, as the models of transformers call them: a longer sequence has none.
POSITIONS = ("position_embeddings", "embed_positions", "wpe")
POOLER = "pooler."  # after the hidden states; where a model comes without it, transformers fills it with noise
EXTRA = "parity"


def from_torch(model: Any, tokenizer: Any, layers: Sequence[int] | None = None, name: str = "") -> Encoder:
    """Make an encoder from a PyTorch model of transformers, or any module with the same interface.

    The model stays on its device, is put into evaluation mode, and runs without gradients on sequences of equal length
    together, so that it never sees padding. Of an encoder-decoder only the encoder is used. Layer i is
    `hidden_states[i]`, 0 the embedding. The tokenizer's special tokens are never pooled. If its vocabulary is single
    letters and it needs blanks between them, they are added; unknown letters are refused, unknown words are not.

    Args:
        model: module called with `input_ids`, `attention_mask` and `output_hidden_states=True`.
        tokenizer: of the same model, as transformers has them.
        layers: the hidden states that become the encoder's layers, in this order; by default all.
        name: its name in reports; by default the name by which the model was loaded.

    Raises InputError if torch is not installed, if the model does not give hidden states with one vector per token, and
    for a layer that it does not have.
    """
    return TorchEncoder(model, tokenizer, layers, name)


def load_torch(name: str, dtype: Any = jnp.float32, trust_remote_code: bool = False) -> Encoder:
    """`from_torch` of a folder or hub id; also of a folder of sentence-transformers (`read_settings`).

    The model is moved to a GPU if PyTorch sees one. `trust_remote_code` runs code that comes with the model, with a
    warning.

    Raises InputError if torch is not installed, or if the model cannot be loaded, lacks weights, or needs code that is
    not trusted.
    """
    torch = need("torch", EXTRA, f"encoder: torch:{name}")
    import transformers

    folder = Path(name) if Path(name).is_dir() else fetch(name, "*.model", *["*.py"] * trust_remote_code)
    settings = read_settings(folder)
    if trust_remote_code:
        note(f"warning: encoder: code that comes with {name} is run on this machine (--trust-remote-code)")
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(settings.folder, **options)
        kind = getattr(torch, jnp.dtype(dtype).name)
        model, loaded = transformers.AutoModel.from_pretrained(
            settings.folder, dtype=kind, output_loading_info=True, **options
        )
    except Exception as error:  # transformers raises whatever a damaged or foreign folder leads to
        if "trust_remote_code" in str(error):
            raise InputError(
                f"encoder: {name} needs code that comes with it. Read it first; --trust-remote-code of covjax compare "
                "and tasks then runs it here, and elsewhere covjax.encoders.from_torch takes the loaded model"
            ) from None
        what = f"{type(error).__name__}: {shown(str(error), 150)[1:-1]}"
        raise InputError(f"encoder: transformers cannot load {name}: {what}") from None
    if absent := sorted(each for each in loaded["missing_keys"] if not each.startswith(POOLER)):
        raise InputError(f"encoder: the weights of {name} lack {absent[0]}, which transformers would fill with noise")
    if torch.cuda.is_available():
        model = model.to("cuda")
    return TorchEncoder(model, tokenizer, None, f"torch:{name}", settings)


class TorchEncoder:
    """The encoder of `from_torch` (see `covjax.encoders.Encoder`)."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        layers: Sequence[int] | None,
        name: str,
        settings: SentenceSettings | None = None,
    ):
        self._torch = need("torch", EXTRA, "from_torch: a PyTorch model")
        if not isinstance(model, self._torch.nn.Module):
            raise InputError(f"from_torch: {type(model).__name__} is not a PyTorch module")
        config = getattr(model, "config", None)
        if getattr(config, "is_encoder_decoder", False) and hasattr(model, "get_encoder"):
            model = model.get_encoder()
        self._model, self._tokenizer, self._settings = model.eval(), tokenizer, settings
        self.name = name or getattr(config, "_name_or_path", "") or type(model).__name__
        unknown = tokenizer.unk_token_id
        others = {getattr(tokenizer, f"{each}_token_id", None) for each in ("bos", "eos", "pad", "cls", "sep", "mask")}
        self._unknown = None if unknown in others else unknown
        special = set(tokenizer.all_special_ids)  # a property that is worked out at every look
        self._special = sorted(special - {self._unknown})
        known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self._pad = next(each for each in known if each is not None)
        vocabulary = tokenizer.get_vocab()
        own = {token.lstrip("▁Ġ") for token, number in vocabulary.items() if number not in special}
        self.letters = vocabulary_kind(own)
        letters = sorted(token for token in own if len(token) == 1 and token.isalpha())
        self._spaced = self.letters in ("protein", "dna") and self._unknown in self._ids("".join(letters[:2]))
        probe = np.array(self._ids(letters[0] if letters else "a"), np.int32)
        self.frame = _ends(np.isin(probe, self._special))
        self.max_tokens = self._limit()
        states = self._hidden(probe[None])  # all, to find how many there are
        asked = range(len(states)) if layers is None else layers
        self._layers = [layer_index(layer, len(states)) for layer in asked]
        self._widths = [states[layer].shape[2] for layer in self._layers]
        self.num_layers = len(self._layers)
        self.weights_digest = self._digest(vocabulary)

    def features(self, layer: int) -> int:
        """Width of one token at a layer."""
        return self._widths[layer_index(layer, self.num_layers)]

    def encode(self, sequence: str) -> Int[np.ndarray, "t"]:
        """Token ids, special ones included; InputError for unknown letters, no token, or too many tokens."""
        ids = self.encode_any_length(sequence)
        if self.max_tokens is not None and len(ids) > self.max_tokens:
            raise InputError(f"{len(ids)} tokens, more than the {self.max_tokens} that the model reads; shorten it")
        return ids

    def encode_any_length(self, sequence: str) -> Int[np.ndarray, "t"]:
        """`encode` for windows, which are cut later."""
        check_text(sequence)
        settings = self._settings
        if settings is not None:
            sequence = settings.prompt + (sequence.lower() if settings.lower else sequence)
        ids = np.array(self._ids(" ".join(sequence) if self._spaced else sequence), np.int32)
        if np.isin(ids, self._special).all():
            raise InputError(f"the sequence {shown(sequence, 40)} has no token to pool")
        if self.letters in ("protein", "dna") and self._unknown is not None and (bad := ids == self._unknown).any():
            place = int(np.argmax(bad)) - self.frame[0] + 1
            raise InputError(f"token {place} of {shown(sequence, 40)} is not in the model's vocabulary")
        return ids

    def pad(
        self, rows: Sequence[Int[np.ndarray, "_"]], length: int
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Tokens, the mask of what the model sees, the mask to pool."""
        tokens, mask = pad_rows(rows, length, self._pad)
        return tokens, mask, mask & ~np.isin(tokens, self._special)

    def apply(
        self, tokens: Int[np.ndarray, "b t"], mask: Bool[np.ndarray, "b t"], layers: tuple[int, ...]
    ) -> dict[int, Float[Array, "b t d"]]:
        """Activations of the asked layers, rows of equal length in one run of the model; masked tokens are 0."""
        tokens, lengths = np.asarray(tokens), np.asarray(mask).sum(1)
        numbers = {layer: self._layers[layer_index(layer, self.num_layers)] for layer in layers}
        out: dict[int, Any] = {}
        for length in sorted(set(lengths.tolist()) - {0}):
            rows = np.flatnonzero(lengths == length)
            hidden = self._hidden(tokens[rows, :length])
            for layer, number in numbers.items():
                x = hidden[number]
                if layer not in out:
                    out[layer] = x.new_zeros((*tokens.shape, x.shape[2]))
                out[layer][self._torch.as_tensor(rows, device=x.device), :length] = x
        return {layer: _to_jax(x) for layer, x in out.items()}

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, truncation=False, padding=False, verbose=False)["input_ids"]

    def _hidden(self, ids: Int[np.ndarray, "b t"]) -> tuple[Any, ...]:
        device = next(self._model.parameters()).device
        given = self._torch.as_tensor(ids, dtype=self._torch.long, device=device)
        with self._torch.no_grad():
            out = self._model(input_ids=given, attention_mask=self._torch.ones_like(given), output_hidden_states=True)
        hidden = getattr(out, "hidden_states", None)
        if not hidden:
            raise InputError(f"from_torch: {self.name} gives no hidden_states, which output_hidden_states asks for")
        if any(tuple(x.shape[:2]) != ids.shape for x in hidden):
            shapes = sorted({tuple(x.shape) for x in hidden})
            raise InputError(f"from_torch: {self.name} gives {shown(shapes)} for {ids.shape} ids: not a vector a token")
        return tuple(hidden)

    def _limit(self) -> int | None:
        """Most tokens, special ones included: the learned positions, or what sentence-transformers was told."""
        limits = [] if self._settings is None else [self._settings.max_tokens]
        for where, module in self._model.named_modules():
            if where.split(".")[-1] in POSITIONS and isinstance(module, self._torch.nn.Embedding):
                limits.append(module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1))
        return min((limit for limit in limits if limit is not None), default=None)

    def _digest(self, vocabulary: dict[str, int]) -> str:
        """Over the weights, which hidden states are the layers, the vocabulary, and what is done to a text."""
        settings = None if self._settings is None else self._settings[1:]
        digest = hashlib.sha256(repr((type(self._model).__name__, self._layers, settings)).encode())
        digest.update(repr(sorted(vocabulary.items())).encode())
        for name, values in self._bytes():
            digest.update(name.encode())
            digest.update(values)
        return digest.hexdigest()

    def _bytes(self) -> Iterator[tuple[str, memoryview]]:
        for name, tensor in sorted(self._model.state_dict().items()):
            if name.startswith(POOLER):
                continue
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            yield f"{name}{tensor.dtype}{tuple(tensor.shape)}", flat.view(self._torch.uint8).numpy().data


def _ends(special: Bool[np.ndarray, "t"]) -> tuple[int, int]:
    """Special tokens before and after the others."""
    own = np.flatnonzero(~special)
    return (int(own[0]), len(special) - 1 - int(own[-1])) if len(own) else (len(special), 0)


def _to_jax(x: Any) -> Array:
    """The tensor as a JAX array of the same memory; by way of the host where JAX does not see PyTorch's device."""
    if x.device.type != "cpu" and jax.default_backend() == "cpu":
        x = x.cpu()
    return jnp.from_dlpack(x.contiguous())
