"""Secondary structure of RNA in dot-bracket notation: the kind of loop that every base is in."""

from covjax.errors import InputError

KINDS = {
    "S": "paired",
    "H": "hairpin",
    "B": "bulge",
    "I": "interior",
    "M": "multiloop",
    "E": "exterior",
}


def loop_kinds(structure: str) -> str:
    """The kind of every base, a letter of `KINDS` each: S of a pair, else that of the loop it is unpaired in.

    A loop is named by the pairs that close it: one, a hairpin; two, a bulge where all unpaired bases are on one side
    and an interior loop otherwise; three and more, a multiloop. Bases inside no pair are exterior: both ends, and what
    is between two stems.

    Raises InputError for an empty structure, letters other than `.`, `(` and `)` (pseudoknots have others), and a
    bracket without its partner, with the position counted from 1.
    """
    if not structure:
        raise InputError("structure: it is empty; one of ., ( and ) is needed for every base")
    kinds = ["S"] * len(structure)
    closing = -1  # the pair that closes the loop; -1: none
    loops: dict[int, list[int]] = {closing: []}  # of every closing base, the unpaired bases
    inner: dict[int, list[int]] = {closing: []}  # and the opening bases of the pairs inside
    outside: dict[int, int] = {}
    for i, letter in enumerate(structure):
        if letter == ".":
            loops[closing].append(i)
        elif letter == "(":
            inner[closing].append(i)
            outside[i], closing = closing, i
            loops[i], inner[i] = [], []
        elif letter == ")" and closing >= 0:
            closing = outside[closing]
        elif letter == ")":
            raise InputError(f"structure: ')' at position {i + 1} closes no pair")
        else:
            raise InputError(f"structure: {letter!r} at position {i + 1}; allowed: . ( )")
    if closing >= 0:
        raise InputError(f"structure: '(' at position {closing + 1} is never closed")
    for pair, bases in loops.items():
        for i in bases:
            kinds[i] = _kind(pair, bases, inner[pair])
    return "".join(kinds)


def _kind(pair: int, bases: list[int], inner: list[int]) -> str:
    """The kind of a loop from the opening bases of its pairs, the closing one (-1: none) and those inside."""
    if pair < 0:
        return "E"
    if len(inner) != 1:
        return "M" if inner else "H"
    before = sum(i < inner[0] for i in bases)
    return "I" if 0 < before < len(bases) else "B"
