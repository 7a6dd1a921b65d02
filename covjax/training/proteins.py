"""Rows of proteins for a masked language model: held-out groups, crops and hidden residues, all from one seed."""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int32

from covjax.data.letters import RESIDUES, letter_codes, letter_kind
from covjax.data.near_copies import near_copies
from covjax.data.sequences import read_tidy
from covjax.data.splits import deal_groups
from covjax.data.text import NAMED, warn
from covjax.encoders.esm import VOCABULARY, Esm
from covjax.encoders.heads import MASKED_SHARE
from covjax.errors import InputError, shown
from covjax.notes import note
from covjax.training.config import EncoderConfig
from covjax.training.kinds import Batch, Corpus, Kind
from covjax.training.language import TwoSided

RARE = "XBUZO"  # unknown, ambiguous and rare residues: shown, never hidden
REMEDIES = {"J": "write X for it", "*": "leave a reading frame with a stop inside it out"}
REACH = 2  # residues on each side that the largest counting model sees
SHORTEST = 16  # residues: of a shorter protein there is little to tell a hidden one from
MASK, PAD = VOCABULARY.index("<mask>"), VOCABULARY.index("<pad>")
NUMBERS = np.array([VOCABULARY.index(letter) for letter in RESIDUES], np.int32)
MASKED, REPLACED = 0.8, 0.1  # of the residues asked for, as ESM's pre-training has it; the others stand as they are


def read_proteins(config: EncoderConfig) -> Corpus:
    """Read and check the proteins, and split their groups of near copies into those for training and for judging."""
    share = _share(config)
    ids, sequences = read_tidy(config.data, sys.maxsize)
    if letter_kind(sequences) == "dna":
        raise InputError(
            f"data: {config.data} has the letters of nucleotides (A, C, G, T, U, N) alone; --kind esm reads proteins, "
            "--kind ntv3 DNA"
        )
    codes = [
        letter_codes(sequence, RESIDUES, RARE, name, "a residue that ESM knows", REMEDIES)
        for name, sequence in zip(ids, sequences, strict=True)
    ]
    if short := [name for name, sequence in zip(ids, sequences) if len(sequence) < SHORTEST]:
        some = ", ".join(shown(name, 40) for name in short[:NAMED])
        if len(short) == len(ids):
            raise InputError(f"data: {config.data}: no protein has {SHORTEST} residues: {some}; give longer ones")
        warn(f"{config.data}: left out {len(short):,} proteins shorter than {SHORTEST} residues: {some}")
    long = [i for i, sequence in enumerate(sequences) if len(sequence) >= SHORTEST]
    sequences, codes = [sequences[i] for i in long], [codes[i] for i in long]
    digest = hashlib.sha256("\n".join(sequences).encode()).hexdigest()
    groups = np.unique(near_copies(sequences, "protein"), return_inverse=True)[1]
    sizes = np.bincount(groups)
    if len(sizes) < 2:
        which = (
            f"all {len(groups):,} proteins are near copies of each other" if len(groups) > 1 else "it has one protein"
        )
        raise InputError(
            f"holdout: {config.holdout}: {config.data}: {which}, so none is left to hold out; give proteins of several "
            "families"
        )
    side = deal_groups(groups, np.ones((len(groups), 1), bool), (1 - share, share), config.seed)
    counts = [
        f"{int((side == i).sum()):,} proteins {what} ({sum(len(codes[j]) for j in np.flatnonzero(side == i)):,} "
        f"residues, {len(np.unique(groups[side == i])):,} groups of near copies)"
        for i, what in enumerate(("to train on", "held out"))
    ]
    note(", ".join(counts))
    train, judge = (
        Proteins([sequences[j] for j in at], 1 / sizes[groups[at]], config.length)
        for at in (np.flatnonzero(side == i) for i in (0, 1))
    )
    apart = np.array([len(RESIDUES)], np.int8)  # an unknown letter, so that no count goes across two proteins
    joined = np.concatenate([part for i in np.flatnonzero(side == 0) for part in (codes[i], apart)])
    return Corpus(train, judge, TwoSided([joined], len(RESIDUES), REACH), digest)


def _share(config: EncoderConfig) -> float:
    """The share to hold out; raises InputError for what is none, and for options that proteins have not."""
    if config.regions:
        raise InputError(f"regions: {config.regions!r} is for DNA; leave --regions out with --kind esm")
    if config.downsamples != EncoderConfig.downsamples:
        raise InputError(f"downsamples: {config.downsamples} is for --kind ntv3; leave it out with --kind esm")
    try:
        share = float(config.holdout)
    except ValueError:
        share = -1
    if not 0 < share < 1:
        raise InputError(
            f"holdout: {shown(config.holdout)} is not a share between 0 and 1; --kind esm holds out a share of the "
            "proteins, as --holdout 0.05 says"
        )
    return share


class Proteins:
    """Rows of `length` tokens, each of as many whole or cropped proteins as fit, in batches; see `Examples`.

    A protein is <cls>, its residues and <eos>, and where that is more than a row, `length` of these tokens in a row
    from a random place. 15 % of the residues are asked for; of these 80 % are hidden, 10 % replaced by any residue and
    10 % shown (Devlin et al. 2019, Lin et al. 2023). What is held out is asked for hidden alone, and never within
    `REACH` residues of an end, where the counting models lack neighbours.

    Args:
        sequences: the proteins.
        chances: how often each is drawn, in proportion.
        length: tokens in a row.
    """

    def __init__(self, sequences: Sequence[str], chances: Float[np.ndarray, "n"], length: int):
        table = np.zeros(256, np.int32)
        for number, token in enumerate(VOCABULARY):
            if len(token) == 1:
                table[ord(token)] = number
        text = "".join(f"<{sequence}>" for sequence in sequences)
        table[[ord("<"), ord(">")]] = VOCABULARY.index("<cls>"), VOCABULARY.index("<eos>")
        self._tokens = table[np.frombuffer(text.encode(), np.uint8)]
        self._ends = np.cumsum([len(sequence) + 2 for sequence in sequences])
        self._starts = np.append(0, self._ends[:-1])
        self._chances = np.cumsum(chances)
        self.length = length

    def batch(self, size: int, seed: int, number: int) -> Batch:
        """`size` rows of proteins drawn at random, as batch `number` of a training."""
        rng = np.random.default_rng([seed, number])
        true, sequence, _ = _fill(next(_first_fit(self._drawn(rng), size, self.length)), size, self.length)
        asked = (rng.random(true.shape) < MASKED_SHARE) & np.isin(true, NUMBERS)
        turn, other = rng.random(true.shape), NUMBERS[rng.integers(len(NUMBERS), size=true.shape)]
        replaced = np.where(asked & (turn < MASKED + REPLACED), other, true)
        return _batch(np.where(asked & (turn < MASKED), MASK, replaced), true, sequence, asked)

    def held_out(self, count: int, size: int, seed: int) -> Iterator[Batch]:
        """One piece of `count` proteins, or of as many as there are, in their order; at most `size` rows a batch."""
        rng = np.random.default_rng([seed, 2**32])
        chosen = np.unique(np.linspace(0, len(self._ends) - 1, min(count, len(self._ends))).astype(int))
        for rows in _first_fit((self._piece(i, rng) for i in chosen), size, self.length):
            true, sequence, inner = _fill(rows, len(rows), self.length)
            hidden = (rng.random(true.shape) < MASKED_SHARE) & np.isin(true, NUMBERS) & inner
            yield _batch(np.where(hidden, MASK, true), true, sequence, hidden)

    def _drawn(self, rng: np.random.Generator) -> Iterator[Int32[np.ndarray, "_"]]:
        while True:
            yield self._piece(int(np.searchsorted(self._chances, rng.random() * self._chances[-1], side="right")), rng)

    def _piece(self, number: int, rng: np.random.Generator) -> Int32[np.ndarray, "_"]:
        start, end = self._starts[number], self._ends[number]
        if end - start > self.length:
            start += rng.integers(end - start - self.length + 1)
        return self._tokens[start : min(start + self.length, end)]


Rows = list[list[Int32[np.ndarray, "_"]]]  # the pieces of every row of a batch


def _first_fit(pieces: Iterator[Int32[np.ndarray, "_"]], size: int, length: int) -> Iterator[Rows]:
    """Batches of `size` rows of at most `length` tokens, the last of fewer; a piece goes into the first row with room.

    A piece for which no row has room begins the next batch.
    """
    rows: Rows = []
    room: list[int] = []
    for piece in pieces:
        row = next((i for i, free in enumerate(room) if free >= len(piece)), len(room))
        if row == size:
            yield rows
            rows, room, row = [], [], 0
        if row == len(room):
            rows.append([])
            room.append(length)
        rows[row].append(piece)
        room[row] -= len(piece)
    yield rows


def _fill(
    rows: Rows, size: int, length: int
) -> tuple[Int32[np.ndarray, "b t"], Int32[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
    """Tokens, the number of their sequence, and whether there are `REACH` residues of it on both sides."""
    tokens, sequence = np.full((size, length), PAD, np.int32), np.zeros((size, length), np.int32)
    inner = np.zeros((size, length), bool)
    for i, row in enumerate(rows):
        start = 0
        for number, piece in enumerate(row, 1):
            end = start + len(piece)
            tokens[i, start:end], sequence[i, start:end] = piece, number
            inner[i, start + 1 + REACH : end - 1 - REACH] = True
            start = end
    return tokens, sequence, inner


def _batch(
    shown: Int32[np.ndarray, "b t"],
    true: Int32[np.ndarray, "b t"],
    sequence: Int32[np.ndarray, "b t"],
    asked: Bool[np.ndarray, "b t"],
) -> Batch:
    return np.stack([shown, true, np.zeros_like(true), sequence], 1).astype(np.int32), asked.astype(np.float32)


def _files(config: EncoderConfig) -> dict[str, str]:
    options = {
        **{"model_type": "esm", "architectures": ["EsmForMaskedLM"], "vocab_size": len(VOCABULARY)},
        **{"pad_token_id": PAD, "mask_token_id": MASK, "hidden_size": config.width, "num_hidden_layers": config.blocks},
        **{"num_attention_heads": config.heads, "intermediate_size": 4 * config.width, "hidden_act": "gelu"},
        **{"position_embedding_type": "rotary", "token_dropout": True, "emb_layer_norm_before": False},
        **{"layer_norm_eps": 1e-5, "tie_word_embeddings": False},
    }
    return {"config.json": json.dumps(options, indent=1) + "\n", "vocab.txt": "\n".join(VOCABULARY) + "\n"}


def _stored(name: str) -> str:
    return name if name.startswith("lm_head.") else f"esm.{name}"


PROTEINS = Kind(Esm, _files, _stored, read_proteins, VOCABULARY, RESIDUES, "residue")
