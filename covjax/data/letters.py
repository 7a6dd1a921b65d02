"""Alphabets of sequences: nucleotides, residues and what a sequence may hold."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int8

from covjax.errors import InputError, shown

_COMPLEMENT = str.maketrans("ACGTUNRYSWKMBDHVacgtunryswkmbdhv", "TGCAANYRSWMKVHDBtgcaanyrswmkvhdb")


def reverse_complement(sequence: str) -> str:
    """The other strand, read 5' to 3'; case and ambiguity codes are kept, and other letters are unchanged."""
    return sequence.translate(_COMPLEMENT)[::-1]


NUCLEOTIDES = frozenset("ACGTUN")
IUPAC = "RYSWKMBDHV"  # the nucleotide codes of several bases, without N
AMBIGUOUS = frozenset(IUPAC + "-")  # and the gap
RESIDUES_ALONE = frozenset("EFILPQ")  # amino acids whose letter is no nucleotide code
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
AMINO_ACIDS = frozenset(RESIDUES)
ENOUGH = 200  # letters in all: a short protein may be of A, C, G and T alone by chance
STRAND = 30  # letters: no protein as long as this is of three or four of A, C, G and T alone
SUGGESTIONS = {
    "protein": "unirep-64 or facebook/esm2_t6_8M_UR50D",
    "dna": "yeast-lm, a folder or hub id of the Nucleotide Transformer or DNABERT, or a model of SpliceAI",
    "text": "all-MiniLM-L6-v2",
}
NAMES = {"protein": "proteins", "dna": "DNA", "text": "text"}


def letter_codes(
    sequence: str, letters: str, others: str, name: str, what: str, remedies: Mapping[str, str]
) -> Int8[np.ndarray, "t"]:
    """0, 1, … for the letters in their order, their number for one of `others`; case does not count.

    Raises InputError for another letter, with the record's `name`, the position, counted from 1, `what` it is not, and
    its remedy where there is one.
    """
    unknown = len(letters)
    table = np.full(256, unknown + 1, np.int8)
    for letter in letters + others:
        table[[ord(letter), ord(letter.lower())]] = letters.index(letter) if letter in letters else unknown
    codes = table[np.frombuffer(sequence.encode("ascii", "replace"), np.uint8)]
    if (odd := codes > unknown).any():
        at = int(odd.argmax())
        remedy = remedies.get(sequence[at].upper(), "")
        raise InputError(
            f"record {shown(name, 40)}: {sequence[at]!r} at position {at + 1:,} is not {what}; allowed: "
            f"{letters}{others}{remedy and '; ' + remedy}"
        )
    return codes


def letter_kind(sequences: Sequence[str]) -> str | None:
    """The kind of sequences by their letters: "dna" (or RNA), "protein", "text", or None if that is unclear.

    Text: white space within at least half of the sequences, and not only upper-case letters around it. DNA: at least
    nine of ten sequences are nucleotide codes alone, nine of ten letters of these A, C, G, T, U or N, and three of the
    four bases occur. Protein: at least one letter in ten is E, F, I, L, P or Q. Case does not count.
    """
    if not sequences:
        return None
    parted = [sequence for sequence in sequences if len(sequence.split(None, 1)) > 1]
    if 2 * len(parted) >= len(sequences):
        residues = all("".join(sequence.split()).isalpha() and sequence.isupper() for sequence in parted)
        return None if residues else "text"
    if is_nucleotides(sequences):
        return "dna"
    total = sum(map(len, sequences))
    alone = sum(sequence.count(letter) for letter in (*"EFILPQ", *"efilpq") for sequence in sequences)
    return "protein" if not parted and 10 * alone >= total else None


def is_nucleotides(sequences: Sequence[str]) -> bool:
    """Whether a table is DNA or RNA; see `letter_kind`."""
    strands = [s for s in map(str.upper, sequences) if set(s) <= NUCLEOTIDES | AMBIGUOUS]
    counts = {letter: sum(strand.count(letter) for strand in strands) for letter in NUCLEOTIDES}
    bases = [counts["A"], counts["C"], counts["G"], counts["T"] + counts["U"]]
    return (
        10 * len(strands) >= 9 * len(sequences)
        and 10 * sum(counts.values()) >= 9 * sum(map(len, strands))
        and sum(count > 0 for count in bases) >= 3
    )


def vocabulary_kind(tokens: Iterable[str]) -> str | None:
    """The kind of sequences of a vocabulary without special tokens: "dna", "protein", "text", or None if unclear.

    DNA: every token of letters is of A, C, G, T, U and N. Protein: single letters, all twenty amino acids among them.
    Text: words.
    """
    words = {token for token in tokens if token.isalpha()}
    letters = {token for token in words if len(token) == 1}
    if words and all(set(word.upper()) <= NUCLEOTIDES for word in words):
        return "dna"
    if letters == words:
        return "protein" if letters >= AMINO_ACIDS else None
    return "text"


def gap_text(sequence: str) -> str:
    """Where a sequence has the first gap of an alignment, and what to do about it; empty where it has none."""
    if not (match := re.search(r"[-.]", sequence)):
        return ""
    place = match.start() + 1
    return f"a gap {match[0]!r} at position {place} of {shown(sequence, 40)}; remove the gaps of the alignment"


def check_letters(name: str, sequences: Sequence[str], encoder: Any, force: bool = False) -> None:
    """Refuse a table whose letters are not those that the encoder reads.

    An encoder says what it reads in its attribute `letters` ("protein", "dna", "text"); one without it, such as a model
    of one's own, is not checked. Tables of less than 200 letters, or whose letters do not say what they are, pass;
    `force` lets all pass.

    Raises InputError with the encoders that fit, for a protein encoder also where some long sequences are DNA, and
    where letters have the gaps of an alignment, which ESM-2, for one, would read as residues.
    """
    reads = getattr(encoder, "letters", None)
    if force or reads is None:
        return
    kind = letter_kind(sequences)
    if "text" not in (reads, kind) and (gap := next(filter(None, map(gap_text, sequences)), "")):
        raise InputError(f"{name}: {gap}, or give --force-letters to insist")
    if sum(map(len, sequences)) < ENOUGH:
        return
    strands = [s for s in sequences if len(s) >= STRAND and set(s.upper()) <= NUCLEOTIDES and is_nucleotides([s])]
    if reads == "protein" and kind != "dna" and sum(map(len, strands)) >= ENOUGH:
        raise InputError(
            f"{name}: {len(strands):,} of {len(sequences):,} sequences are of A, C, G, T, U, N alone, such as "
            f"{shown(strands[0], 40)}, which looks like DNA, but the encoder {shown(encoder.name)} reads proteins; "
            "leave them out, or give --force-letters to insist"
        )
    if kind in (None, reads):
        return
    seen = {
        "dna": "the letters are those of nucleotides (A, C, G, T, U, N) alone",
        "protein": "the letters are those of amino acids",
        "text": "the sequences have words",
    }
    assert kind is not None
    raise InputError(
        f"{name}: {seen[kind]}, so this looks like {NAMES[kind]}, but the encoder {shown(encoder.name)} reads "
        f"{NAMES[reads]}; give --encoder {SUGGESTIONS[kind]}, or --force-letters to insist"
    )


def check_lengths(sequences: Sequence[str], most: int, place: Callable[[int], str]) -> None:
    """Refuse a sequence of more than `most` letters; `place` names the i-th sequence in the InputError."""
    for i, sequence in enumerate(sequences):
        if len(sequence) > most:
            raise InputError(
                f"{place(i)}: {len(sequence):,} letters, more than max_length {most}; raise --max-length or shorten it "
                "(nothing is cropped silently)"
            )


def check_encoding(sequences: Sequence[str], encoder: Any, place: Callable[[int], str]) -> None:
    """Refuse a sequence that the encoder does not read, before hours of work.

    `place` names the i-th sequence. Raises InputError with that name and what the encoder says.
    """
    for i, sequence in enumerate(sequences):
        try:
            encoder.encode(sequence)
        except InputError as error:
            raise InputError(f"{place(i)}: {error}") from None
