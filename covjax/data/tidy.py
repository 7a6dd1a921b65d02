"""Sequences of letters as people paste them: white space of wrapped lines, terminal stops, gaps; text is left alone."""

from collections.abc import Sequence

from covjax.errors import InputError, shown

NUCLEOTIDES = frozenset("ACGTUNacgtun")
LONG = 20  # letters without white space, all capitals: no word of a text


def has_words(sequences: Sequence[str]) -> bool:
    """White space inside some sequence: the table holds text."""
    return any(len(sequence.split(None, 1)) > 1 for sequence in sequences)


def tidy_sequences(sequences: Sequence[str], places: Sequence[str], column: str, notes: list[str]) -> tuple[str, ...]:
    """Return the sequences as encoders read them; `places` ("t.csv: line 5") and `column` are for messages.

    Text (white space inside some sequence) comes back with white space stripped at its ends and no other change.
    Residues and nucleotides are upper-cased; the white space of wrapped lines and of blocks of ten is removed, and so
    is one `*` at the end, the stop of a translated reading frame: `notes` gets a line with how many. White space is
    not that of text where the table has only the letters ACGTUN, where half of its sequences are 20 and more capital
    letters without any, or where each sequence that has some is capitals cut into pieces of one length, 10 or more.

    Raises InputError for a gap (`-` or `.`) in a sequence of letters, and for a sequence that is only a stop.
    """
    sequences = [sequence.strip() for sequence in sequences]
    if has_words(sequences):
        if not _wrapped(sequences):
            return tuple(sequences)
        spaced = [i for i, sequence in enumerate(sequences) if len(sequence.split(None, 1)) > 1]
        sequences = ["".join(sequence.split()) for sequence in sequences]
        count = f"{len(spaced):,} of {len(sequences):,} sequences"
        notes.append(f"white space removed inside {count} (first: {_line(places[spaced[0]])})")
    stops = [i for i, sequence in enumerate(sequences) if sequence.endswith("*") and sequence[:-1].isalpha()]
    for i in stops:
        sequences[i] = sequences[i][:-1]
    if stops:
        count = f"{len(stops):,} of {len(sequences):,} sequences"
        notes.append(f"the stop '*' removed at the end of {count} (first: {_line(places[stops[0]])})")
    capitals = all(_letters(sequence).isupper() or NUCLEOTIDES.issuperset(_letters(sequence)) for sequence in sequences)
    for sequence, place in zip(sequences, places):
        if sequence == "*":
            raise InputError(f"{place}: column {shown(column, 40)} is a stop '*' and nothing else")
        if capitals and (gap := next((i for i, letter in enumerate(sequence, 1) if letter in "-."), 0)):
            raise InputError(
                f"{place}: column {shown(column, 40)}: a gap {sequence[gap - 1]!r} at position {gap} of "
                f"{shown(sequence, 40)}; remove the gaps of the alignment"
            )
    return tuple(sequence.upper() for sequence in sequences)


def _letters(sequence: str) -> str:
    return sequence.replace("-", "").replace(".", "").replace("*", "")


def _line(place: str) -> str:
    return place.rpartition(": ")[2]


def _wrapped(sequences: Sequence[str]) -> bool:
    """White space stands inside some sequences, and yet they are letters and no text."""
    pieces = [sequence.split() for sequence in sequences]
    if not all(_letters(piece).isalpha() or piece.strip("*-.") == "" for parts in pieces for piece in parts):
        return False
    if all(NUCLEOTIDES.issuperset(_letters(piece)) for parts in pieces for piece in parts):
        return True
    if sum(len(parts) == 1 and len(parts[0]) >= LONG and parts[0].isupper() for parts in pieces) * 2 >= len(pieces):
        return True
    cut = [[len(piece) for piece in parts] for parts in pieces if len(parts) > 1]
    one_length = all(sizes[0] >= 10 and set(sizes[:-1]) == {sizes[0]} and sizes[-1] <= sizes[0] for sizes in cut)
    return one_length and all(piece.isupper() for parts in pieces if len(parts) > 1 for piece in parts)
