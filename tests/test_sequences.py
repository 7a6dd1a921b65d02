"""Reading unlabelled sequences: every format gives the same, every fault is named."""

import gzip

import pytest

from covjax.data.sequences import read_sequences
from covjax.errors import InputError

IDS, SEQUENCES = ("a", "b"), ("ACGT", "GGnN")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.fasta", ">a first\nAC\nGT\n\n>b\nGGnN\n"),
        ("x.csv", "id,sequence\na,ACGT\nb,GGnN\n"),
        ("x.tsv", "sequence\tid\nACGT\ta\nGGnN\tb\n"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_formats_agree(tmp_path, name, text, zipped):
    path = tmp_path / (name + ".gz" * zipped)
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    assert read_sequences(path) == (IDS, SEQUENCES)


def test_text_and_rows_without_ids(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("a sentence\n\nanother one\n")
    assert read_sequences(path) == (("row1", "row3"), ("a sentence", "another one"))


def test_bed_windows_are_half_open_and_stranded(tmp_path):
    (tmp_path / "g.fa").write_text(">chr1\nAACCGGTTNN\n")
    (tmp_path / "w.bed").write_text("#c\nchr1\t0\t4\tfirst\t0\t+\nchr1\t1\t5\t.\t0\t-\nchr1\t8\t10\n")
    ids, sequences = read_sequences(tmp_path / "w.bed", tmp_path / "g.fa")
    assert ids == ("first", "chr1:1-5", "chr1:8-10")
    assert sequences == ("AACC", "CGGT", "NN")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.doc", "a", "suffix '.doc'"),
        ("x.fa", "ACGT\n", "line 1: a sequence before"),
        ("x.fa", ">a\n>b\nAC\n", "'a' is empty"),
        ("x.fa", ">a\nAC\n>a\nAC\n", "line 3: id 'a' stands already in line 1"),
        ("x.csv", "id,seq\na,AC\n", "missing column 'sequence'"),
        ("x.csv", "id,sequence\na\n", "row 2: not 2 fields"),
        ("x.txt", "\n", "no sequence in it"),
        ("x.bed", "chr1\t0\t4\n", "goes with a .bed"),
    ],
)
def test_faults_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_sequences(tmp_path / name)


@pytest.mark.parametrize(
    ("line", "message"), [("chr2\t0\t4", "'chr2'"), ("chr1\t2\t20", "outside 'chr1' of 4"), ("chr1 0 4", "not chrom")]
)
def test_bed_faults_are_named(tmp_path, line, message):
    (tmp_path / "g.fa").write_text(">chr1\nACGT\n")
    (tmp_path / "w.bed").write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        read_sequences(tmp_path / "w.bed", tmp_path / "g.fa")
