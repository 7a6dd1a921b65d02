"""Reading unlabelled sequences: every format gives the same, every fault is named."""

import gzip

import pytest

from covjax.data import read_table
from covjax.data.pairs import read_pairs
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
        ("x.fa", ">a\nAC\n>a\nAC\n", "line 3: id 'a' is already in line 1"),
        ("x.csv", "id,chain\na,AC\n", "missing column 'sequence'"),
        ("x.csv", "id,sequence\na\n", "line 2: 1 cells separated by comma, but 2"),
        ("x.csv", 'sequence\n"AC\n', "line 2: a quotation mark is opened and never closed"),
        ("x.csv", "id,sequence\na,AC\n\na,AG\n", "line 4: id 'a' is already in line 2"),
        ("x.csv", "sequence,sequence\nAC,AG\n", "column 'sequence' occurs 2 times"),
        ("x.fa", ">a\nAC>b\nAG\n", "line 2: '>' or ';' inside a sequence: 'AC>b'"),
        ("x.fa", "a\n", "line 1: a sequence before the first header '>': 'a'"),
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


@pytest.mark.parametrize(
    ("bed", "ids", "note"),
    [
        ("c\t0\t4\nc\t²\t4\n", ("c:0-4",), "left out 1 of 2 regions: line 2: not chrom, start, end"),
        ("c\t0\t4\nc\t2\t9\n", ("c:0-4",), "left out 1 of 2 regions: line 2: window 2-9 is empty or outside 'c' of 4"),
        ("c\t0\t4\nd\t0\t4\ne\t0\t4\n", ("c:0-4",), "left out 2 on 2 chromosomes that are not in"),
    ],
)
def test_odd_windows_are_left_out_and_said_once(tmp_path, capsys, bed, ids, note):
    (tmp_path / "g.fa").write_text(">c\nACGT\n")
    (tmp_path / "w.bed").write_text(bed, encoding="utf-8")
    assert read_sequences(tmp_path / "w.bed", tmp_path / "g.fa")[0] == ids
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path / 'w.bed'}: ")
    assert note in line


def test_another_naming_of_the_chromosomes_is_told(tmp_path):
    (tmp_path / "g.fa").write_text(">1\nACGT\n>2\nACGT\n")
    (tmp_path / "w.bed").write_text("#\nchr1\t0\t4\n")
    with pytest.raises(InputError, match=r"line 2: chromosome 'chr1' is not in .* has '1', '2'; they differ by 'chr'"):
        read_sequences(tmp_path / "w.bed", tmp_path / "g.fa")


def test_semicolons_line_ends_and_letters_of_unicode(tmp_path):
    (tmp_path / "x.csv").write_bytes("id;sequence\ra,1;A\u2028C\r".encode("utf-16"))
    assert read_sequences(tmp_path / "x.csv") == (("a,1",), ("A\u2028C",))
    (tmp_path / "x.txt").write_bytes("a\x85b\r\n  c\x0cd  \r\n".encode())
    assert read_sequences(tmp_path / "x.txt") == (("row1", "row2"), ("a\x85b", "c\x0cd"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "Name;Seq;n\na;ACGT;1\nb;GGnN;2\n"),
        ("x.tsv", "ID,Protein Sequence\na,ACGT\nb,GGnN\n"),
        ("x.tab", "accession\tdna\na\tACGT\nb\tGGnN\n"),
        ("x.txt", ">a\nACGT\n>b\nGGnN\n"),
        ("x.txt", "id\tsequence\na\tACGT\nb\tGGnN\n"),
        ("x.txt", '"id","sequence"\n"a","ACGT"\n"b","GGnN"\n'),
        ("x.txt", 'id,text,label\na,ACGT,"x, y"\nb,GGnN,z\n'),
    ],
)
def test_tables_that_a_comparison_reads(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_sequences(tmp_path / name) == (IDS, SEQUENCES)


def test_a_workbook(tmp_path):
    book = pytest.importorskip("openpyxl").Workbook()
    for row in (["ID", "Sequence"], ["a", "ACGT"], ["b", "GGnN"]):
        book.active.append(row)
    book.save(tmp_path / "x.xlsx")
    assert read_sequences(tmp_path / "x.xlsx") == (IDS, SEQUENCES)


def test_prose_is_no_table_and_repeated_names_are_no_ids(tmp_path):
    (tmp_path / "x.txt").write_text("text, and more\nno comma here\n")
    assert read_sequences(tmp_path / "x.txt")[1] == ("text, and more", "no comma here")
    (tmp_path / "x.csv").write_text("name,sequence\na,ACGT\na,GGnN\n")
    assert read_sequences(tmp_path / "x.csv") == (("row2", "row3"), SEQUENCES)


@pytest.mark.parametrize(
    ("head", "count"), [("Sequence", 2), ("protein", 2), ("PROTEIN", 2), ("DNA", 3), ("MKV", 3), ("a word", 3)]
)
def test_a_first_line_that_is_a_column_alone_is_a_header_unless_it_may_be_a_peptide(tmp_path, capsys, head, count):
    (tmp_path / "x.txt").write_text(f"{head}\nMKTAYI\nMKLVV\n")
    assert len(read_sequences(tmp_path / "x.txt")[1]) == count
    assert ("is the header of a table" in capsys.readouterr().err) == (count == 2)


def test_lines_of_text_below_a_header_alone_may_have_commas_and_sep_names_a_table(tmp_path):
    (tmp_path / "x.txt").write_text("text\nI liked it, really.\nNot so good.\n")
    assert read_sequences(tmp_path / "x.txt") == (("row2", "row3"), ("I liked it, really.", "Not so good."))
    (tmp_path / "x.txt").write_text("sep=;\nsequence;label\nACGT;x\n")
    assert read_sequences(tmp_path / "x.txt") == (("row3",), ("ACGT",))


@pytest.mark.parametrize("text", ["sep=;\nsequence;label\nAC;x\nGG;y\n", 'sequence,label\n"A\nC",x\n\nGG,y\n'])
def test_a_row_without_an_id_has_the_name_that_a_comparison_gives_it(tmp_path, text):
    (tmp_path / "x.csv").write_text(text)
    assert read_sequences(tmp_path / "x.csv")[0] == read_table(tmp_path / "x.csv").ids


def test_what_a_file_holds_beside_its_rows_is_said(tmp_path, capsys):
    book = pytest.importorskip("openpyxl").Workbook()
    book.active.append(["sequence", "sequence_b"])
    book.active.append(["ACGT", "ACGA"])
    book.active.title = "old"
    for row in (["sequence"], ["GG"]):
        (book["new"] if "new" in book.sheetnames else book.create_sheet("new")).append(row)
    book.save(tmp_path / "x.xlsx")
    assert read_sequences(tmp_path / "x.xlsx") == (("row2",), ("ACGT",))
    assert read_pairs(tmp_path / "x.xlsx") == (("row2",), ("ACGT",), ("ACGA",))
    assert capsys.readouterr().out.count("sheet 'old' is read, not 'new'") == 2
    (tmp_path / "x.csv").write_text("sequence,label\nAC,x\n,\n")
    assert read_sequences(tmp_path / "x.csv")[1] == ("AC",)
    assert "1 of 2 rows are of empty cells alone and passed over" in capsys.readouterr().out


def test_pairs_take_names_for_ids_only_where_none_occurs_twice(tmp_path):
    (tmp_path / "x.csv").write_text("name,sequence,sequence_b\nP,AC,AG\nP,AC,AT\n")
    assert read_pairs(tmp_path / "x.csv")[0] == ("row2", "row3")
    (tmp_path / "x.csv").write_text("id,sequence,sequence_b\nP,AC,AG\nP,AC,AT\n")
    with pytest.raises(InputError, match="line 3: id 'P' is already in line 2; make ids different"):
        read_pairs(tmp_path / "x.csv")


def test_a_place_on_both_strands_is_two_windows(tmp_path):
    (tmp_path / "g.fa").write_text(">c\nAACCGGTTNN\n")
    (tmp_path / "w.bed").write_text("c\t0\t4\t.\t0\t+\nc\t0\t4\t.\t0\t-\nc\t1\t3\t.\t0\t-\n")
    ids, sequences = read_sequences(tmp_path / "w.bed", tmp_path / "g.fa")
    assert ids == ("c:0-4(+)", "c:0-4(-)", "c:1-3")
    assert sequences == ("AACC", "GGTT", "GT")
