"""Letters or text to token ids, each in the way of the model's authors."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from covjax.encoders.base import pad_rows
from covjax.encoders.config import read_json
from covjax.errors import InputError


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of a model: how a sequence is split, what stands around it, what is never pooled."""

    split: Callable[[str], list[str]]
    ids: Mapping[str, int]
    first: tuple[str, ...]
    last: tuple[str, ...]
    special: frozenset[str]  # seen by the model, never pooled
    pad: str
    unknown: str | None  # the token that stands for an unknown word; None: the model has none, so it is refused
    max_tokens: int | None  # the learned positions, special tokens included; None: no limit

    def encode(self, sequence: str, any_length: bool = False) -> Int[np.ndarray, "t"]:
        """Ids of the special tokens and of the sequence's own.

        Raises InputError for a token the vocabulary lacks (named with its number, counted from 1), a sequence without
        tokens or with special ones alone, the padding token, and, unless `any_length`, more tokens than the model has
        positions.
        """
        tokens = self.split(sequence)
        if not tokens:
            raise InputError(f"the sequence {sequence[:20]!r} has no token")
        if all(token in self.special for token in tokens):
            raise InputError(f"the sequence {sequence[:20]!r} has special tokens alone; nothing is left to pool")
        for number, token in enumerate(tokens, start=1):
            if token == self.pad or (token not in self.ids and self.unknown is None):
                hint = "; write it in upper case" if token.upper() in self.ids and token.upper() != token else ""
                what = "is the padding token" if token == self.pad else "is not in the model's vocabulary"
                raise InputError(f"token {number}, {token!r}, {what}{hint}")
        if (
            not any_length
            and self.max_tokens is not None
            and len(tokens) + len(self.first) + len(self.last) > self.max_tokens
        ):
            most = self.max_tokens - len(self.first) - len(self.last)
            raise InputError(f"{len(tokens)} tokens, more than the {most} positions the model has learned")
        unknown = self.ids.get(self.unknown) if self.unknown is not None else None
        return np.array([self.ids.get(token, unknown) for token in (*self.first, *tokens, *self.last)], np.int32)

    def fill(
        self, rows: Sequence[Int[np.ndarray, "t"]], length: int
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Rows padded to `length` tokens, the mask of real tokens, the mask without special ones (to pool)."""
        tokens, mask = pad_rows(rows, length, self.ids[self.pad])
        return tokens, mask, mask & ~np.isin(tokens, [self.ids[token] for token in self.special])


def read_vocabulary(path: Path, size: int) -> dict[str, int]:
    """Tokens of a vocab.txt, one a line; raises InputError where it is missing or not of the model's size."""
    if not path.is_file():
        raise InputError(f"{path.parent}: no file {path.name}")
    # Not splitlines: a token may be one of Unicode's own line ends.
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    ids = {token.strip(" \t"): number for number, token in enumerate(lines)}
    if len(ids) != size:
        raise InputError(f"{path}: {len(ids)} tokens, but config.json says vocab_size {size}")
    return ids


def esm_vocabulary(folder: Path, size: int, max_tokens: int | None) -> Vocabulary:
    """Residues or 6-mers by transformers' EsmTokenizer: the longest token first, single letters where none fits.

    Upper case alone: the authors' tokenizers read lower-case letters as unknown, and unknown tokens are refused. The
    Nucleotide Transformer begins with <cls> and ends with nothing, as its tokenizer_config.json says; a folder without
    that file is taken for one where the vocabulary has k-mers.
    """
    from transformers import EsmTokenizer

    ids = read_vocabulary(folder / "vocab.txt", size)
    kmers = any(len(token) > 1 and token.isalpha() for token in ids)
    unsaid = kmers and not (folder / "tokenizer_config.json").is_file()
    options: dict[str, Any] = {"eos_token": None} if unsaid or "<eos>" not in ids else {}
    tokenizer = EsmTokenizer.from_pretrained(folder, **options)
    named = (tokenizer.cls_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.mask_token, tokenizer.unk_token)
    if missing := [token for token in named if token is not None and token not in ids]:
        raise InputError(f"{folder}/vocab.txt: no token {missing[0]}")
    last = () if tokenizer.eos_token is None else (tokenizer.eos_token,)
    known = {token: number for token, number in ids.items() if token != tokenizer.unk_token}
    special = frozenset(token for token in named if token in known) | {"<bos>"} & set(known)
    return Vocabulary(tokenizer.tokenize, known, (tokenizer.cls_token,), last, special, "<pad>", None, max_tokens)


def bert_vocabulary(path: Path, size: int, max_tokens: int) -> Vocabulary:
    """What vocab.txt holds decides: single letters (AntiBERTy), all k-mers of ACGT (DNABERT), or words (WordPiece).

    Letters: upper case alone, `_` is a masked residue. k-mers: overlapping, one starting at every base but the last
    k − 1; upper-case ACGT alone (DNABERT has no token for N). Both refuse what they lack. Words: transformers'
    BertTokenizer with the options of tokenizer_config.json, lower-casing included; an unknown word becomes [UNK], which
    is pooled like any word. Nothing is truncated, whatever length tokenizer.json asks for.
    """
    ids = read_vocabulary(path, size)
    special = frozenset(("[PAD]", "[CLS]", "[SEP]", "[MASK]"))
    if missing := sorted((special | {"[UNK]"}) - set(ids)):
        raise InputError(f"{path}: no token {missing[0]}")
    own = set(ids) - special - {"[UNK]"}
    lengths = set(map(len, own))
    split: Callable[[str], list[str]]
    unknown = None
    if lengths == {1}:
        split = _letters
    elif len(lengths) == 1 and own == {"".join(word) for word in itertools.product("ACGT", repeat=max(lengths))}:
        split = _Kmers(max(lengths))
    else:
        split, unknown = _words(path, ids), "[UNK]"
    if unknown is None:
        ids = {token: number for token, number in ids.items() if token != "[UNK]"}
    return Vocabulary(split, ids, ("[CLS]",), ("[SEP]",), special, "[PAD]", unknown, max_tokens)


def _letters(sequence: str) -> list[str]:
    return ["[MASK]" if letter == "_" else letter for letter in sequence]


@dataclass(frozen=True)
class _Kmers:
    k: int

    def __call__(self, sequence: str) -> list[str]:
        if 0 < len(sequence) < self.k:
            raise InputError(f"the sequence {sequence!r} is shorter than the model's {self.k}-mers")
        return [sequence[i : i + self.k] for i in range(len(sequence) - self.k + 1)]


def _words(path: Path, ids: dict[str, int]) -> Callable[[str], list[str]]:
    from transformers import BertTokenizer

    file = path.parent / "tokenizer_config.json"
    options = read_json(file) if file.is_file() else {}
    kept = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
    return BertTokenizer(ids, **{key: options[key] for key in kept if key in options}).tokenize
