"""What labels and annotations say of latents: the letters of tokens, files of annotations, enrichment."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import fisher_exact

from covjax import InputError
from covjax.dashboards.build import token_letters
from covjax.dashboards.codes import Corpus
from covjax.dashboards.enrichment import enrichment, label_enrichment
from covjax.data.annotations import read_annotations
from covjax.data.store import Text
from covjax.encoders.vocabulary import Vocabulary, _Kmers, _Words, token_spans


def test_enrichment_is_fishers_and_holms(rng):
    active, has = rng.random((60, 7)) < 0.3, rng.random((60, 4)) < 0.4
    has[:, 0] |= active[:, 2]
    active[:, 6], has[:, 3] = False, True
    found = enrichment(sparse.csr_matrix(active), sparse.csr_matrix(has), "abcd")
    tests = [(i, j) for i in range(6) for j in range(3)]
    assert found.tests == len(tests)
    p = {}
    for i, j in tests:
        a, b = active[:, i], has[:, j]
        table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
        p[i, j] = fisher_exact(table, "greater").pvalue
        assert found.p[i, j] == pytest.approx(p[i, j], rel=1e-9)
    highest = 0.0
    for rank, pair in enumerate(sorted(tests, key=lambda pair: p[pair])):
        highest = max(highest, min(1.0, p[pair] * (len(tests) - rank)))
        assert found.adjusted[pair] == pytest.approx(highest, rel=1e-9)
    assert (found.p[6] == 1).all()
    assert (found.p[:, 3] == 1).all()
    assert found.adjusted[2, 0] < 0.01


def test_sequences_without_a_label_are_counted_and_said(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("id,label\na,x\nb,y\nc,\nd,x\n")
    texts = [Text("M", np.array([[0, 1]]))] * 4
    corpus = Corpus(np.arange(4), ["a", "b", "c", "e"], texts, np.arange(5), np.zeros(1))
    tests, notes = label_enrichment(str(table), corpus, sparse.csr_matrix(np.ones((4, 1), np.float32)))
    assert tests.total == 2
    assert tests.having.tolist() == [1, 1]
    assert notes[0] == f"Labels of 2 of 4 sequences from {table}."
    assert notes[1].startswith("1 of 4 rows left out, without labels")


def test_where_tokens_stand_in_their_sequence():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def spans(split, tokens, sequence, special=()):
        ids = {token: number for number, token in enumerate(["<pad>", *special, *tokens])}
        made = Vocabulary(split, ids, (), (), frozenset(["<pad>", *special]), "<pad>", None, None)
        return made.spans(sequence)

    assert spans(list, "ACGT", "GAT").tolist() == [[0, 1], [1, 2], [2, 3]]
    sixes = ["ACGTAC", "G"]
    assert spans(lambda text: sixes, sixes, "ACGTACG").tolist() == [[0, 6], [6, 7]]
    assert spans(lambda text: ["<mask>", "A"], ["A"], "<mask>A", ["<mask>"]).tolist() == [[6, 7]]
    assert spans(lambda text: ["[MASK]", "A"], ["A", "[MASK]"], "_A").tolist() == [[0, 1], [1, 2]]
    assert spans(_Kmers(3), ["ACG", "CGT", "GTA"], "ACGTA").tolist() == [[0, 3], [1, 4], [2, 5]]
    assert spans(lambda text: ["odd"], ["odd"], "something else") is None
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "go": 2, "on": 3}, unk_token="<unk>"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")
    assert spans(_Words(tokenizer), ["go", "on", "<unk>"], "Go  xyz on").tolist() == [[0, 2], [4, 7], [8, 10]]
    encoder = SimpleNamespace(vocabulary=Vocabulary(list, {"A": 0}, (), (), frozenset(), "<pad>", None, None))
    assert token_spans(encoder, "AA", 2).tolist() == [[0, 1], [1, 2]]
    assert token_spans(object(), "AC", 2).tolist() == [[0, 1], [1, 2]]
    assert token_spans(object(), "AC", 3) is None


def test_letters_of_tokens():
    words = Text("Go on, now", np.array([[0, 2], [3, 5], [5, 6], [7, 10]]))
    assert token_letters(words, 0, 4) == ["Go ", "on", ", ", "now"]
    kmers = Text("ACGTA", np.array([[0, 3], [1, 4], [2, 5]]))
    assert token_letters(kmers, 0, 3) == ["A", "C", "GTA"]
    assert token_letters(kmers, 1, 2) == ["CGT"]
    assert token_letters(Text("ACGT", None), 1, 3) == ["2 ", "3 "]


def test_annotations_of_three_formats(tmp_path):
    files = {
        "a.bed": "track name=x\ns1\t2\t5\thelix\ns2\t0\t1\tturn\n",
        "a.gff3": "##gff-version 3\ns1\tx\thelix\t3\t5\t.\t.\t.\t\ns2\tx\tturn\t1\t1\t.\t.\t.\t\n##FASTA\n>s1\n",
        "a.tsv": "name\tid\tstart\tend\nhelix\ts1\t2\t5\nturn\ts2\t0\t1\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        found = read_annotations(tmp_path / name)
        assert [tuple(each) for each in found] == [("s1", 2, 5, "helix"), ("s2", 0, 1, "turn")]
    for name, text, message in [
        ("b.txt", "x", r"suffix '\.txt' is not one of \.bed, \.gff, \.gff3, \.gtf, \.tsv, \.csv"),
        ("b.tsv", "id\tstart\tstop\tname\ns\t1\t2\tx\n", "'end' is not one of its columns, 'id, start, stop, name'"),
        ("b.bed", "s1\t5\t2\tx\n", "not a start below an end: 's1'"),
        ("c.bed", "# nothing\n", "no annotation in it"),
        ("d.tsv", "id\tstart\tend\tname\ns\tone\t2\tx\n", "line 2: not a start below an end"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=message):
            read_annotations(tmp_path / name)
