"""Groups of near copies: against all pairs by definition, and what must and must not be linked."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from covjax.data.letters import reverse_complement
from covjax.data.near_copies import near_copies, piece_length

RESIDUES, BASES = "ACDEFGHIKLMNPQRSTVWY", "ACGT"


def draw(rng, letters, length):
    return "".join(rng.choice(list(letters), length))


def mutate(rng, sequence, count, letters):
    out = list(sequence)
    for i in rng.choice(len(out), count, replace=False):
        out[i] = rng.choice([letter for letter in letters if letter != out[i]])
    return "".join(out)


def pieces(sequence, kind, k):
    """The definition, one sequence at a time: pieces with their numbers."""
    units = tuple(sequence.split()) if kind == "text" else sequence
    windows = [units[i : i + k] for i in range(max(len(units) - k, 0) + 1)]
    if kind == "dna":
        windows = [min(window, reverse_complement(window)) for window in windows]
    return Counter(windows)


def by_definition(sequences, kind):
    lengths = [len(s.split()) if kind == "text" else len(s) for s in sequences]
    k = piece_length(kind, np.array([n for n, _ in zip(lengths, sequences)]))
    bags = [pieces(sequence, kind, k) for sequence in sequences]
    sizes = [bag.total() for bag in bags]
    parent = list(range(len(sequences)))
    for i, j in itertools.combinations(range(len(sequences)), 2):
        a, b = (i, j) if sizes[i] <= sizes[j] else (j, i)
        needed = math.ceil(0.9**k * sizes[a] - 1e-9)
        if sizes[a] > k:
            needed = min(needed, sizes[a] - k)
        if lengths[a] <= 10:
            needed = sizes[a]
        if (bags[a] & bags[b]).total() >= needed and parent[i] != parent[j]:
            low, high = sorted((parent[i], parent[j]))
            parent = [low if p == high else p for p in parent]
    return parent


@pytest.mark.parametrize("kind", ["protein", "dna", "text"])
@pytest.mark.parametrize("seed", [0, 1])
def test_groups_are_those_of_all_pairs(kind, seed):
    rng = np.random.default_rng(seed)
    words = [f"w{i}" for i in range(300)]
    letters = {"protein": list(RESIDUES), "dna": list(BASES), "text": words}[kind]
    sequences = []
    for _ in range(25):
        parent = list(rng.choice(letters, rng.integers(8, 90)))
        for _ in range(8):
            child = list(parent)
            for i in rng.choice(len(child), rng.binomial(len(child), rng.choice([0.02, 0.08, 0.15])), replace=False):
                child[i] = rng.choice(letters)
            begin = rng.integers(0, len(child) // 2) if rng.random() < 0.3 else 0
            child = child[begin:]
            text = " ".join(child) if kind == "text" else "".join(child)
            sequences.append(reverse_complement(text) if kind == "dna" and rng.random() < 0.5 else text)
    sequences = list(dict.fromkeys(sequences))
    rng.shuffle(sequences)
    groups = near_copies(sequences, kind).tolist()
    assert groups == by_definition(sequences, kind)
    assert 20 < len(set(groups)) < len(sequences) - 20


@pytest.mark.parametrize(("letters", "changes"), [(RESIDUES, 15), (BASES, 15)])
def test_95_percent_of_300_letters_are_a_near_copy(rng, letters, changes):
    sequences = [draw(rng, letters, 300) for _ in range(50)]
    copies = [mutate(rng, sequence, changes, letters) for sequence in sequences]
    assert near_copies(sequences + copies).tolist() == [*range(50), *range(50)]


@pytest.mark.parametrize(("letters", "identity"), [(RESIDUES, 0.7), (BASES, 0.7)])
def test_70_percent_are_none(rng, letters, identity):
    sequences = [draw(rng, letters, 300) for _ in range(30)]
    others = [mutate(rng, sequence, round(300 * (1 - identity)), letters) for sequence in sequences]
    assert near_copies(sequences + others).tolist() == list(range(60))


def test_one_changed_letter_links_peptides_of_more_than_ten(rng):
    for length in (11, 15, 20, 40):
        sequence = draw(rng, RESIDUES, length)
        for place in range(length):
            letter = "A" if sequence[place] != "A" else "C"
            copy = sequence[:place] + letter + sequence[place + 1 :]
            shared = length - 4 + 1 - min(place + 1, length - place, 4, length - 3)
            assert (near_copies([sequence, copy])[1] == 0) == (shared >= 1), (length, place)
    assert near_copies(["MKALIWYRT", "MKALIWYRS"]).tolist() == [0, 1]  # one of nine: 89 %


def test_fragments_stand_with_the_whole(rng):
    whole = draw(rng, RESIDUES, 400)
    assert near_copies([whole[100:150], draw(rng, RESIDUES, 50), whole]).tolist() == [0, 1, 0]
    genome = draw(rng, BASES, 100_000)
    window = reverse_complement(genome[5000:5200])
    assert near_copies([genome, draw(rng, BASES, 200), window]).tolist() == [0, 1, 0]


def test_runs_of_one_letter_link_only_runs(rng):
    parts = [draw(rng, RESIDUES, 200) for _ in range(6)]
    tracts = [part[:100] + "Q" * 40 + part[100:] for part in parts]
    assert near_copies(tracts).tolist() == list(range(6))
    assert near_copies([*tracts, "Q" * 300, "Q" * 250, "A" * 300]).tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 8]
    tails = [draw(rng, BASES, 200) + "A" * 50 for _ in range(6)]
    assert near_copies(tails).tolist() == list(range(6))


def test_case_strand_u_and_punctuation_do_not_count(rng):
    strand = draw(rng, BASES, 80)
    rna = strand.replace("T", "U").lower()
    assert near_copies([strand, rna, reverse_complement(strand), draw(rng, BASES, 80)]).tolist() == [0, 0, 0, 3]
    protein = draw(rng, RESIDUES, 80)
    assert near_copies([protein, protein.lower(), protein[::-1]]).tolist() == [0, 0, 2]
    assert near_copies(["Who was , Galileo ?", "who was galileo", "WHO is he"]).tolist() == [0, 0, 2]
    assert near_copies(["?!", "...", "a b"]).tolist() == [0, 1, 2]


def test_a_tag_common_to_all_links_nothing(rng):
    tag = "MGSSHHHHHHSSGLVPRGSHM" * 2
    sequences = [tag + draw(rng, RESIDUES, 200) for _ in range(400)]
    assert len(set(near_copies(sequences).tolist())) == 400


def test_a_mutant_library_is_one_group(rng):
    parent = draw(rng, RESIDUES, 250)
    library = [mutate(rng, parent, 2, RESIDUES) for _ in range(3000)]
    assert set(near_copies(library).tolist()) == {0}


def test_short_sequences_and_none():
    assert near_copies([]).tolist() == []
    assert near_copies(["", "A", "a", "AC", "GT"], "dna").tolist() == [0, 1, 1, 3, 3]
    assert near_copies(["M", "MK", "MK", "MKA"]).tolist() == [0, 1, 1, 3]
    assert near_copies(["蛋白质", "蛋白质", "𝔘nicode"]).tolist() == [0, 0, 2]
