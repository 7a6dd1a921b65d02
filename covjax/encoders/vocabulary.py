"""Letters or text to token ids, each in the way of the model's authors."""

import itertools
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from covjax.encoders.base import check_text, pad_rows
from covjax.errors import InputError, shown
from covjax.modelfiles import read_json


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
    letters: frozenset[str] = frozenset()  # a sequence of these alone is split into them, and all have ids

    def encode(self, sequence: str, any_length: bool = False) -> Int[np.ndarray, "t"]:
        """Ids of the special tokens and of the sequence's own.

        Raises InputError for a token the vocabulary lacks (named with its number, counted from 1), a sequence without
        tokens or with special ones alone, the padding token, and, unless `any_length`, more tokens than the model has
        positions.
        """
        check_text(sequence)
        tokens: Sequence[str] = sequence
        if not sequence or not self.letters.issuperset(sequence):
            tokens = self.split(sequence)
            self._check(sequence, tokens)
        if (
            not any_length
            and self.max_tokens is not None
            and len(tokens) + len(self.first) + len(self.last) > self.max_tokens
        ):
            most = self.max_tokens - len(self.first) - len(self.last)
            raise InputError(f"{len(tokens)} tokens, more than the {most} positions the model has learned")
        unknown = self.ids.get(self.unknown) if self.unknown is not None else None
        return np.array([self.ids.get(token, unknown) for token in (*self.first, *tokens, *self.last)], np.int32)

    def _check(self, sequence: str, tokens: Sequence[str]) -> None:
        if not tokens:
            raise InputError(f"the sequence {shown(sequence, 40)} has no token")
        if all(token in self.special for token in tokens):
            raise InputError(f"the sequence {shown(sequence, 40)} has special tokens alone; nothing is left to pool")
        for number, token in enumerate(tokens, start=1):
            if token == self.pad or (token not in self.ids and self.unknown is None):
                hint = "; write it in upper case" if token.upper() in self.ids and token.upper() != token else ""
                what = "is the padding token" if token == self.pad else "is not in the model's vocabulary"
                raise InputError(f"token {number}, {token!r}, {what}{hint}")

    def fill(
        self, rows: Sequence[Int[np.ndarray, "_"]], length: int
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Rows padded to `length` tokens, the mask of real tokens, the mask without special ones (to pool)."""
        tokens, mask = pad_rows(rows, length, self.ids[self.pad])
        return tokens, mask, mask & ~np.isin(tokens, [self.ids[token] for token in self.special])

    def spans(self, sequence: str) -> Int[np.ndarray, "t 2"] | None:
        """Start and end in the sequence of every token that is pooled; None where the tokenizer does not tell."""
        tokens = self.split(sequence)
        if isinstance(self.split, _Kmers):
            ends = [(i, i + self.split.k) for i in range(len(tokens))]
        elif isinstance(self.split, _Words):
            ends = self.split.spans(sequence)
        elif sum(map(len, tokens)) == len(sequence):
            ends = list(itertools.pairwise(itertools.accumulate(map(len, tokens), initial=0)))
        elif len(tokens) == len(sequence):
            ends = [(i, i + 1) for i in range(len(tokens))]
        else:
            return None
        pooled = [end for token, end in zip(tokens, ends) if token not in self.special]
        return np.array(pooled, np.int32).reshape(-1, 2) if len(ends) == len(tokens) else None


def token_spans(encoder: Any, sequence: str, count: int) -> Int[np.ndarray, "{count} 2"] | None:
    """Start and end in the sequence of what stands behind each of its `count` pooled tokens.

    They are what the encoder's vocabulary says, else a letter a token; None where neither gives `count` tokens.
    """
    vocabulary = getattr(encoder, "vocabulary", None)
    spans = vocabulary.spans(sequence) if isinstance(vocabulary, Vocabulary) else None
    if spans is not None and len(spans) == count:
        return spans
    return np.arange(count, dtype=np.int32)[:, None] + np.array([0, 1], np.int32) if count == len(sequence) else None


def read_vocabulary(path: Path, size: int) -> dict[str, int]:
    """The tokens of a folder with their numbers: vocab.txt (`path`), one a line, or tokenizer.json; added ones too.

    Of a token that stands on several lines the last counts, as for transformers. The model may have more embeddings
    than there are tokens (padding), not fewer. Raises InputError where there is neither file, for one that is not
    UTF-8 or holds no vocabulary, where both files disagree, and for a token without an embedding.
    """
    lines = _lines(path) if path.is_file() else None
    ids = {token: number for number, token in enumerate(lines or ())}
    source, file = path, path.parent / "tokenizer.json"
    if file.is_file():
        stored = json_tokens(file)
        for token, number in stored.items():
            if lines is not None and number < len(lines) and lines[number] != token:
                raise InputError(
                    f"{path}: line {number + 1} is {shown(lines[number])}, but in tokenizer.json {number} is "
                    f"{shown(token)}; delete the file that is not the model's"
                )
        ids, source = {**ids, **stored}, path if lines is not None else file
    elif lines is None:
        raise InputError(f"{path.parent}: no file {path.name}, and no tokenizer.json")
    ids |= added_tokens(path.parent)
    check_numbers(source, ids, size)
    return ids


def check_numbers(where: Path, ids: Mapping[str, int], size: int) -> None:
    """Raise InputError where a token has no embedding, or there is no token."""
    most = max(ids.values(), default=-1) + 1
    if not 0 < most <= size:
        raise InputError(f"{where}: {most} tokens, but config.json says vocab_size {size}: too few embeddings")


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save the vocabulary in UTF-8") from None
    # Not splitlines: a token may be one of Unicode's own line ends.
    return [token.strip(" \t") for token in text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n").split("\n")]


def json_tokens(file: Path) -> dict[str, int]:
    """Vocabulary and added tokens of a tokenizer.json; a model of pieces with scores numbers them in order."""
    content = read_json(file)
    model, added = content.get("model"), content.get("added_tokens") or []
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    try:
        if isinstance(vocabulary, list):
            vocabulary = {piece: number for number, (piece, _) in enumerate(vocabulary)}
        ids = {token["content"]: token["id"] for token in added}
    except (TypeError, KeyError, ValueError):
        raise InputError(f"{file}: not a tokenizer: its tokens have no content and id") from None
    if not isinstance(vocabulary, dict):
        raise InputError(f"{file}: not a tokenizer: no vocabulary in `model`")
    return _numbers(file, {**vocabulary, **ids})


def added_tokens(folder: Path) -> dict[str, int]:
    """The tokens of added_tokens.json with their numbers; none where the folder has no such file."""
    file = folder / "added_tokens.json"
    return _numbers(file, read_json(file)) if file.is_file() else {}


def _numbers(file: Path, tokens: Mapping[Any, Any]) -> dict[str, int]:
    for token, number in tokens.items():
        if not isinstance(token, str) or type(number) is not int or number < 0:
            raise InputError(f"{file}: token {shown(token)} has the number {shown(number)}, expected one from 0")
    return dict(tokens)


def esm_vocabulary(folder: Path, size: int, max_tokens: int | None) -> Vocabulary:
    """Residues or 6-mers by transformers' EsmTokenizer: the longest token first, single letters where none fits.

    Upper case alone: the authors' tokenizers read lower-case letters as unknown, and unknown tokens are refused. The
    Nucleotide Transformer begins with <cls> and ends with nothing, as its tokenizer_config.json says; a folder without
    that file is taken for one where the vocabulary has k-mers. A folder with tokenizer.json and no vocab.txt is split,
    and framed by special tokens, as that file says.
    """
    ids = read_vocabulary(folder / "vocab.txt", size)
    kmers = sum(len(token) > 1 and set(token) <= set("ACGTN") for token in ids) >= 4**2
    unsaid = not (folder / "tokenizer_config.json").is_file() or "<eos>" not in ids
    options: dict[str, Any] = {"eos_token": None} if kmers and unsaid else {}
    tokenizer: Any
    if (folder / "vocab.txt").is_file():
        tokenizer = _from_folder("EsmTokenizer", folder, options)
        last = () if tokenizer.eos_token is None else (tokenizer.eos_token,)
        theirs = tokenizer.get_vocab()
        for token, number in ids.items():
            if token and theirs.get(token) != number:  # its line ends are also those of Unicode
                raise InputError(
                    f"{folder}/vocab.txt: {shown(token, 40)} is token {number}, but {theirs.get(token)} for "
                    "transformers; write one token a line, without other line ends or spaces"
                )
    else:
        frame = {f"{name}_token": f"<{name}>" for name in ("cls", "pad", "mask", "unk")}
        tokenizer = _from_folder("PreTrainedTokenizerFast", folder, frame)
        ends = tokenizer.convert_ids_to_tokens(tokenizer("").input_ids)
        if ends[:1] != [tokenizer.cls_token] or len(ends) > 2:
            raise InputError(f"{folder}/tokenizer.json: it begins with {shown(ends)}, expected {tokenizer.cls_token}")
        last = tuple(ends[1:])
    named = (tokenizer.cls_token, *last, tokenizer.pad_token, tokenizer.mask_token, tokenizer.unk_token)
    if missing := [token for token in named if token is not None and token not in ids]:
        raise InputError(f"{folder}: no token {shown(missing[0])[1:-1]} in the vocabulary")
    known = {token: number for token, number in ids.items() if token != tokenizer.unk_token}
    special = frozenset(token for token in (*named, "<bos>") if token in known)
    first = (tokenizer.cls_token,)
    letters = _esm_letters(tokenizer, set(known) - special) if (folder / "vocab.txt").is_file() else frozenset()
    return Vocabulary(tokenizer.tokenize, known, first, last, special, tokenizer.pad_token, None, max_tokens, letters)


def _esm_letters(tokenizer: Any, own: Set[str]) -> frozenset[str]:
    """`Vocabulary.letters` of an EsmTokenizer, which takes 20 times as long; none where they also make up k-mers."""
    letters = frozenset(token for token in own if len(token) == 1 and not token.isspace())
    longer = {token for token in (*tokenizer.get_vocab(), *tokenizer.added_tokens_encoder) if len(token) > 1}
    return frozenset() if any(letters.issuperset(token) for token in longer) else letters


def bert_vocabulary(path: Path, size: int, max_tokens: int) -> Vocabulary:
    """What the vocabulary holds decides: single letters (AntiBERTy), all k-mers of ACGT (DNABERT), or words.

    Letters: upper case alone, `_` is a masked residue. k-mers: overlapping, one starting at every base but the last
    k − 1; upper-case ACGT alone (DNABERT has no token for N). Both refuse what they lack. Words: the tokenizer that
    transformers makes of the folder, lower-casing included; an unknown word becomes [UNK], which is pooled like any
    word. Nothing is truncated, whatever length tokenizer.json asks for.
    """
    ids = read_vocabulary(path, size)
    special = frozenset(("[PAD]", "[CLS]", "[SEP]", "[MASK]"))
    if missing := sorted((special | {"[UNK]"}) - set(ids)):
        raise InputError(f"{path}: no token {missing[0]}")
    own = set(ids) - special - {"[UNK]", ""}
    lengths = set(map(len, own))
    split: Callable[[str], list[str]]
    unknown = None
    if lengths == {1}:
        split = _letters
    elif len(lengths) == 1 and own == _all_kmers(max(lengths), len(own)):
        split = _Kmers(max(lengths))
    else:
        tokenizer = _from_folder("AutoTokenizer", path.parent, {})
        split, ids, unknown = _Words(tokenizer), tokenizer.get_vocab(), "[UNK]"
        ends = [token for token in tokenizer.convert_ids_to_tokens(tokenizer("").input_ids) if token != "[PAD]"]
        if ends != ["[CLS]", "[SEP]"] or tokenizer.unk_token != "[UNK]":
            raise InputError(
                f"{path.parent}: its tokenizer frames a text by {shown(ends)} and calls an unknown word "
                f"{shown(tokenizer.unk_token)}; supported: [CLS], [SEP] and [UNK]"
            )
        if missing := sorted((special | {"[UNK]"}) - set(ids)) or max(ids.values()) >= size:
            raise InputError(f"{path.parent}: transformers' tokenizer of this folder lacks {missing or 'embeddings'}")
    if unknown is None:
        ids = {token: number for token, number in ids.items() if token != "[UNK]"}
    letters = frozenset(own - {"_"} if lengths == {1} else ())
    return Vocabulary(split, ids, ("[CLS]",), ("[SEP]",), special, "[PAD]", unknown, max_tokens, letters)


def subword_vocabulary(folder: Path, size: int, max_tokens: int | None) -> Vocabulary:
    """The tokenizer that transformers makes of a folder: its splitting, its special tokens, their places.

    What frames a sequence (BOS, EOS, CLS, …) is what that tokenizer adds. No special token is pooled; the unknown one
    is a word like any other. Where there is no padding token the one that ends or begins a text fills up. Nothing is
    truncated. Raises InputError where the folder has no tokenizer.json and nothing to make one of, for a frame in the
    middle of a sequence, and for tokens without an embedding.
    """
    if not (folder / "tokenizer.json").is_file() and (models := sorted(folder.glob("*.model"))):
        raise InputError(
            f"{folder}: {models[0].name} without tokenizer.json; write that with transformers, where the package "
            "sentencepiece is installed: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    tokenizer = _from_folder("AutoTokenizer", folder, {})
    split, ids = _Words(tokenizer), tokenizer.get_vocab()
    check_numbers(folder, ids, size)
    whole, inner = tokenizer("A", padding=False, truncation=False).input_ids, [ids[token] for token in split("A")]
    ends = [i for i in range(len(whole) - len(inner) + 1) if whole[i : i + len(inner)] == inner]
    if not inner or not ends:
        raise InputError(f"{folder}: its tokenizer makes {shown(whole)} of 'A', which has not {shown(inner)} in it")
    frame = tokenizer.convert_ids_to_tokens(whole)
    pad = tokenizer.pad_token or tokenizer.eos_token or tokenizer.bos_token
    if pad not in ids:
        raise InputError(f"{folder}: its tokenizer has no padding token, and none that ends or begins a text")
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    first, last = tuple(frame[: ends[0]]), tuple(frame[ends[0] + len(inner) :])
    special = (added | {*tokenizer.all_special_tokens, pad, *first, *last}) & set(ids)
    framing = {pad, tokenizer.bos_token, tokenizer.eos_token, *first, *last}
    special -= {tokenizer.unk_token} - framing
    return Vocabulary(split, ids, first, last, frozenset(special), pad, tokenizer.unk_token, max_tokens)


def _letters(sequence: str) -> list[str]:
    return ["[MASK]" if letter == "_" else letter for letter in sequence]


def _all_kmers(k: int, count: int) -> set[str]:
    return {"".join(word) for word in itertools.product("ACGT", repeat=k)} if count == 4**k else set()


@dataclass(frozen=True)
class _Words:
    tokenizer: Any

    def __call__(self, text: str) -> list[str]:
        # Not `tokenize`: of a special token that swallows the space before it, it gives that space too.
        options = {"add_special_tokens": False, "truncation": False, "padding": False, "verbose": False}
        return self.tokenizer.convert_ids_to_tokens(self.tokenizer.encode(text, **options))

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where the tokens stand in the text; none where the tokenizer is not one that knows."""
        if not self.tokenizer.is_fast:
            return []
        options = {"add_special_tokens": False, "truncation": False, "padding": False, "verbose": False}
        return self.tokenizer(text, return_offsets_mapping=True, **options)["offset_mapping"]


@dataclass(frozen=True)
class _Kmers:
    k: int

    def __call__(self, sequence: str) -> list[str]:
        if 0 < len(sequence) < self.k:
            raise InputError(f"the sequence {sequence!r} is shorter than the model's {self.k}-mers")
        return [sequence[i : i + self.k] for i in range(len(sequence) - self.k + 1)]


def _from_folder(kind: str, folder: Path, options: Mapping[str, Any]) -> Any:
    """transformers' tokenizer of a folder, none of whose code is run; raises InputError where it cannot be made."""
    import transformers

    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            read_json(folder / name)
    try:
        tokenizer = getattr(transformers, kind).from_pretrained(folder, local_files_only=True, **options)
        tokenizer.tokenize("A")
    except Exception as error:  # transformers and its tokenizers raise whatever a damaged file leads to
        what = f"{type(error).__name__}: {shown(str(error), 150)[1:-1]}"
        raise InputError(f"{folder}: transformers cannot make its tokenizer: {what}") from None
    return tokenizer
