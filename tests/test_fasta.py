"""FASTA as a stream: headers whole, sequences joined, damage named."""

import gzip

import pytest

from covjax.data.text import stream_fasta
from covjax.errors import InputError

TEXT = ">a first one\nMK\nAL\n\n>b\n>c last\nacgt\n"


def test_records_with_lines_and_whole_headers(tmp_path):
    (tmp_path / "x.fasta").write_text(TEXT)
    with gzip.open(tmp_path / "x.fasta.gz", "wt") as file:
        file.write(TEXT)
    expected = [(1, "a first one", "MKAL"), (5, "b", ""), (6, "c last", "acgt")]
    assert list(stream_fasta(tmp_path / "x.fasta")) == expected
    assert list(stream_fasta(tmp_path / "x.fasta.gz")) == expected


def test_it_reads_no_further_than_asked(tmp_path):
    (tmp_path / "x.fasta.gz").write_bytes(gzip.compress(b">a\nMK\n>b\n" + b"M" * 10**6)[:-100])
    records = stream_fasta(tmp_path / "x.fasta.gz")
    with pytest.raises(InputError, match=r"x.fasta.gz: cannot be read as text"):
        list(records)


def test_sequence_before_the_first_header(tmp_path):
    (tmp_path / "x.fasta").write_text("MK\n>a\nMK\n")
    with pytest.raises(InputError, match="line 1: a sequence before the first header"):
        list(stream_fasta(tmp_path / "x.fasta"))
    with pytest.raises(InputError, match="absent.fasta: cannot be read as text"):
        list(stream_fasta(tmp_path / "absent.fasta"))


@pytest.mark.parametrize(
    ("text", "records"),
    [
        (">a\r\nMK\r\nAL\r\n", [(1, "a", "MKAL")]),
        (">a\rMK\rAL", [(1, "a", "MKAL")]),
        ("\ufeff>a\nMK\n", [(1, "a", "MK")]),
        ("; old comment\n\n>a\n;another\nMK\n", [(3, "a", "MK")]),
        (">a\n  MK AL\t\n", [(1, "a", "MKAL")]),
        (">\nMK\n>  b c \nMA\n", [(1, "", "MK"), (3, "b c", "MA")]),
        (">a>b;c\nMK*\n", [(1, "a>b;c", "MK*")]),
        (">a\u2028b\nMK\n", [(1, "a\u2028b", "MK")]),
        ("", []),
    ],
)
def test_fasta_as_people_have_it(tmp_path, text, records):
    (tmp_path / "x.fasta").write_bytes(text.encode())
    assert list(stream_fasta(tmp_path / "x.fasta")) == records


@pytest.mark.parametrize("line", ["MK>b", " >b", "MK;x", "AC;GT"])
def test_lines_that_have_run_together_are_refused(tmp_path, line):
    (tmp_path / "x.fasta").write_text(f">a\nMK\n{line}\n")
    with pytest.raises(InputError, match="x.fasta: line 3: '>' or ';' inside a sequence"):
        list(stream_fasta(tmp_path / "x.fasta"))
