"""Vocabularies of single residues in T5's tokenizers: ProtT5, ProstT5 (Heinzinger et al.), Ankh (Elnaggar et al.)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from covjax.data.letters import AMINO_ACIDS
from covjax.encoders.vocabulary import Vocabulary, added_tokens, check_numbers, json_tokens
from covjax.errors import InputError

SPACE = "▁"  # how SentencePiece writes the space before a word
RARE = frozenset("UZOB")


def residue_vocabulary(folder: Path, size: int) -> Vocabulary | None:
    """One token for each upper-case residue, `</s>` behind them; None where the folder's pieces are no residues.

    ProtT5's residues are words: its authors write a space between them, and X for U, Z, O and B, as is done here.
    ProstT5's sequences of residues begin with `<AA2fold>`. Ankh's residues are letters, none replaced. The pieces are
    read from tokenizer.json or, without the package of SentencePiece, from spiece.model.
    Raises InputError for a damaged file and a token without an embedding.
    """
    json, model = folder / "tokenizer.json", folder / "spiece.model"
    if json.is_file():
        pieces = json_tokens(json)
    elif model.is_file():
        pieces = {piece: number for number, piece in enumerate(sentence_pieces(model))}
    else:
        return None
    pieces |= added_tokens(folder)
    words = {piece for piece in pieces if not (piece.startswith("<") and piece.endswith(">")) and piece != SPACE}
    letters = {piece.removeprefix(SPACE) for piece in words}
    if any(len(letter) != 1 for letter in letters) or not letters >= AMINO_ACIDS:
        return None
    mark = SPACE if f"{SPACE}A" in pieces else ""
    ids = {letter: pieces[mark + letter] for letter in sorted(letters) if letter.isupper() and mark + letter in pieces}
    first = ("<AA2fold>",) if "<AA2fold>" in pieces else ()
    special = (*first, "</s>", "<pad>")
    if missing := [token for token in (*special, "X") if token not in pieces and token not in ids]:
        raise InputError(f"{folder}: no token {missing[0]} among its residues")
    ids |= {token: pieces[token] for token in special}
    check_numbers(folder, ids, size)
    split = _Residues(RARE if mark else frozenset())
    return Vocabulary(split, ids, first, ("</s>",), frozenset(special), "<pad>", None, None)


@dataclass(frozen=True)
class _Residues:
    rare: frozenset[str]

    def __call__(self, sequence: str) -> list[str]:
        return ["X" if letter in self.rare else letter for letter in sequence]


def sentence_pieces(file: Path) -> list[str]:
    """The pieces of a SentencePiece model in the order of their numbers: field 1 of each message in field 1.

    Raises InputError for a file that is no protocol buffer of that kind.
    """
    try:
        pieces = [
            next(text for inner, text in _fields(piece) if inner == 1).decode()
            for field, piece in _fields(file.read_bytes())
            if field == 1
        ]
    except (IndexError, StopIteration, UnicodeDecodeError, ValueError):
        pieces = []
    if not pieces:
        raise InputError(f"{file}: not a SentencePiece model")
    return pieces


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbers and bytes of the fields of a message of protocol buffers; those of numbers are passed over."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError("the message is cut")
            yield key >> 3, message[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {kind}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
