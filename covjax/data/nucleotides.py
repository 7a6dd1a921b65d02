"""The other strand."""

_COMPLEMENT = str.maketrans("ACGTUNRYSWKMBDHVacgtunryswkmbdhv", "TGCAANYRSWMKVHDBtgcaanyrswmkvhdb")


def reverse_complement(sequence: str) -> str:
    """The other strand, read 5' to 3'; case and ambiguity letters are kept, other letters stay as they are."""
    return sequence.translate(_COMPLEMENT)[::-1]
