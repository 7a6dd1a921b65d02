"""Groups from shared pieces: against all pairs compared directly, and by hand."""

import itertools

import pytest

from covjax.data.letters import reverse_complement
from covjax.errors import InputError
from covjax.sources.draw import kmers, linked, overlapping, word_runs


def test_kmers_by_hand():
    assert kmers("ACGTA", 3) == {"ACG", "CGT", "GTA"}
    assert kmers("ACGTA", 3, both_strands=True) == {"ACG", "GTA"}  # CGT is the other strand of ACG
    assert kmers("AC", 3) == {"AC"}
    assert kmers("TGCAAT", 4, both_strands=True) == {min(s, reverse_complement(s)) for s in ("TGCA", "GCAA", "CAAT")}
    assert kmers("TT", 3, both_strands=True) == {"AA"}
    assert kmers("TTT", 3, both_strands=True) == kmers("AAA", 3, both_strands=True)


def test_word_runs_forget_case_and_punctuation():
    assert word_runs("Who was , Galileo ?", 2) == {("who", "was"), ("was", "galileo")}
    assert word_runs("WHO WAS GALILEO", 8) == word_runs("who was galileo?", 8)


def test_reverse_complement_by_hand():
    assert reverse_complement("AACGTNryt") == "aryNACGTT"


def test_linked_follows_chains():
    assert linked([{"a"}, {"c"}, {"a", "b"}, {"d"}, {"b", "d"}]) == [0, 1, 0, 0, 0]
    assert linked([set(), set()]) == [0, 1]


@pytest.mark.parametrize("share", [0.2, 0.34, 1.0])
def test_overlapping_equals_all_pairs(rng, share):
    sets = [set(rng.integers(0, 150, rng.integers(1, 9)).tolist()) for _ in range(60)]
    groups = overlapping(sets, share)
    parent = list(range(len(sets)))  # the reference: labels spread along every pair until nothing changes
    changed = True
    while changed:
        changed = False
        for i, j in itertools.combinations(range(len(sets)), 2):
            near = len(sets[i] & sets[j]) >= max(1, share * min(len(sets[i]), len(sets[j])))
            if near and parent[i] != parent[j]:
                parent[i] = parent[j] = min(parent[i], parent[j])
                changed = True
    assert groups == parent
    assert 1 < len(set(groups)) < len(sets)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kmers("ACGT", 0), "k: 0 must be >= 1"),
        (lambda: word_runs("a b", 0), "n: 0 must be >= 1"),
        (lambda: overlapping([{"a"}], 0), "share: 0 must be in"),
        (lambda: overlapping([{"a"}], 1.5), "share: 1.5 must be in"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(InputError, match=message):
        call()
