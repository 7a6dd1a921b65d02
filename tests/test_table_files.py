"""Tables as people have them: separators, names of columns, workbooks, Parquet, FASTA, and letters as pasted."""

import datetime
import gzip
import re
import zipfile

import pytest

from covjax.data import read_table
from covjax.errors import InputError

ROWS = [("p1", "MKA", "x"), ("p2", "MLL", "y"), ("p3", "MVV", "x")]


def write(path, text, encoding="utf-8"):
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def delimited(rows, mark=",", header=("id", "sequence", "label")):
    return "".join(mark.join(map(str, row)) + "\n" for row in [header, *rows])


def check(data):
    assert (data.ids, data.sequences) == (("p1", "p2", "p3"), ("MKA", "MLL", "MVV"))
    assert (data.target_names, data.targets.tolist()) == (("x", "y"), [[True, False], [False, True], [True, False]])


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".tab", ".txt", ".csv.gz", ".TXT"])
@pytest.mark.parametrize("mark", [",", "\t", ";"])
def test_any_separator_under_any_suffix(tmp_path, mark, suffix):
    data = read_table(write(tmp_path / f"t{suffix}", delimited(ROWS, mark)))
    check(data)
    assert (data.lines, data.notes) == ((2, 3, 4), ())


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        (("ID", " Sequence ", "LABEL"), "columns: sequence = 'Sequence', label = 'LABEL', id = 'ID'"),
        (("Accession", "seq", "Class"), "columns: sequence = 'seq', label = 'Class', id = 'Accession'"),
        (("name", "Protein Sequence", "y"), "columns: sequence = 'Protein Sequence', label = 'y', id = 'name'"),
        (("Entry", "AA-seq", "Localization"), "columns: sequence = 'AA-seq', label = 'Localization', id = 'Entry'"),
        (("identifier", "text", "target"), "columns: sequence = 'text', label = 'target', id = 'identifier'"),
    ],
)
def test_columns_by_other_names_are_said(tmp_path, header, columns):
    data = read_table(write(tmp_path / "t.csv", delimited(ROWS, header=header)))
    check(data)
    assert data.notes == (columns,)


def test_a_columns_own_name_goes_before_other_names(tmp_path):
    header = ("id", "sequence", "label", "Sequence", "class", "name", "protein")
    check(read_table(write(tmp_path / "t.csv", delimited([(*row, "AA", "z", "n", "CC") for row in ROWS], ",", header))))


def test_named_columns(tmp_path):
    header = ("sequence", "Accession No", "Chain", "Kind", "Part", "Clan", "id")
    rows = [("?", i, s, c, p, g, "same") for (i, s, c), p, g in zip(ROWS, ("train", "val", "test"), "abc")]
    names = {"sequence": "Chain", "label": "kind", "id": "Accession No", "split": "Part", "group": "Clan"}
    options = {f"{role}_column": name for role, name in names.items()}
    data = read_table(write(tmp_path / "t.csv", delimited(rows, ",", header)), **options)
    check(data)
    assert data.splits.tolist() == ["train", "validation", "test"]
    assert data.groups == ("a", "b", "c")
    several = read_table(write(tmp_path / "t.csv", delimited(rows, ",", header)), "multilabel", **options)
    assert (several.task, several.target_names) == ("multilabel", ("x", "y"))


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        ("seq,protein,label", {}, "columns 'seq' and 'protein' are both in the header.*--sequence-column"),
        ("sequence,class,target", {}, "columns 'class' and 'target' are both in the header.*--label-column"),
        ("Sequence,SEQUENCE,label", {}, "columns 'Sequence' and 'SEQUENCE' are both"),
        ("sequence,label,label", {}, "column 'label' occurs 2 times"),
        ("sequence,kind,x", {}, "missing column 'label' or 'labels' or 'targets'; found sequence, kind, x;.*--label-c"),
        ("sequence,lable,x", {}, "did you mean 'lable'"),
        ("sequence,label,x", {"label_column": "kind"}, "--label-column: no column 'kind'; found sequence, label, x"),
        ("sequence,kinds,x", {"label_column": "kind"}, "did you mean 'kinds'"),
        ("sequence,label,x", {"id_column": "label"}, "column 'label' is given for both|missing column 'label'"),
        ("sequence,label,x", {"id_column": "x", "group_column": "x"}, "column 'x' is given for both id and group"),
        (">p1 x,a,b", {}, "looks like FASTA"),
        ("MKAYLLLKAYLLMMMKAYLLLK,x,1", {}, "the first line must be a header with the names of the columns"),
        ("sequence,label,x", {"label_regex": "(x)"}, "label_regex: '\\(x\\)' is for FASTA"),
        ("sequence,label,x", {"missing": "keep"}, "missing: 'keep' is not one of refuse, drop"),
    ],
)
def test_columns_that_could_be_meant_otherwise_are_refused(tmp_path, header, options, message):
    path = write(tmp_path / "t.csv", header + "\nMKA,x,1\nMLL,y,2\n")
    with pytest.raises(InputError, match=message) as error:
        read_table(path, **options)
    assert "\n" not in str(error.value)


def test_numbers_of_folds_and_repeated_names_are_not_taken(tmp_path):
    text = "name,sequence,label,fold\nkinase,MKA,x,1\nkinase,MLL,y,2\n"
    data = read_table(write(tmp_path / "t.csv", text))
    assert (data.ids, data.splits) == (("row2", "row3"), None)
    assert "column 'fold' is not used as the split: it holds '1', none of train, validation, test" in data.notes
    assert "column 'name' is not used as the id: 'kinase' occurs twice" in data.notes
    with pytest.raises(InputError, match="line 2: split '1' is not one of train, validation, test; fold numbers"):
        read_table(tmp_path / "t.csv", split_column="fold")
    data = read_table(write(tmp_path / "t.csv", "sequence,label,set\nMKA,x,Training\nMLL,y,dev\n"))
    assert data.splits.tolist() == ["train", "validation"]
    with pytest.raises(InputError, match="line 3: split 'holdout' is not one of"):
        read_table(write(tmp_path / "t.csv", "sequence,label,set\nMKA,x,train\nMLL,y,holdout\n"))


def test_rows_carry_the_lines_of_the_file(tmp_path):
    path = write(tmp_path / "t.csv", 'id,sequence,label,remark\n\np1,MKA,x,"two\nlines"\np2,MLL,y,\np2,MVV,x,\n')
    with pytest.raises(InputError, match="line 6: id 'p2' is already in line 5"):
        read_table(path)
    data = read_table(write(path, path.read_text().replace("p2,MVV,x,\n", "")))
    assert data.lines == (3, 5)
    assert (data.place(0), data.place(1)) == ("line 3", "line 5")


def workbook(path, *sheets):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets):
        sheet = book.create_sheet(f"sheet {number}")
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_a_workbook_reads_like_a_delimited_file(tmp_path):
    header = ("Entry", "Sequence", "Class", "measured")
    rows = [header, (), *[(*row, datetime.date(2020, 1, 2)) for row in ROWS]]
    data = read_table(workbook(tmp_path / "t.xlsx", (), rows, [("notes",)]))
    check(data)
    assert data.lines == (3, 4, 5)
    assert data.place(0) == "row 3"
    assert data.notes == (
        "columns: sequence = 'Sequence', label = 'Class', id = 'Entry'",
        "sheet 'sheet 1' is read, not 'sheet 2'",
    )


@pytest.mark.parametrize(
    ("numbers", "task", "values"),
    [((1, 0, 1), "multiclass", None), ((1.5, 2, -0.1), "regression", [[1.5], [2.0], [-0.1]])],
)
def test_numbers_of_a_workbook(tmp_path, numbers, task, values):
    rows = [("sequence", "label"), *[(s, n) for (_, s, _), n in zip(ROWS, numbers)]]
    data = read_table(workbook(tmp_path / "t.xlsx", rows))
    assert data.task == task
    assert data.target_names == ("0", "1") if values is None else data.targets.tolist() == values


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("=1+1", "row 3: column 'label' is a formula without a stored value"),
        ("#DIV/0!", "row 3: column 'label' is the error #DIV/0! of Excel"),
        ("date", "row 3: column 'label' is a date .*2020-03-01"),
        (None, "1 of 2 are labels; row 3 is empty"),
        ("#N/A", "1 of 2 are labels; row 3 is '#N/A'"),
    ],
)
def test_cells_of_a_workbook_that_hold_nothing_readable(tmp_path, cell, message):
    cell = datetime.datetime(2020, 3, 1) if cell == "date" else cell
    path = workbook(tmp_path / "t.xlsx", [("sequence", "label"), ("MKA", "x"), ("MLL", cell)])
    with pytest.raises(InputError, match=message):
        read_table(path)


@pytest.mark.parametrize("name", ["t.xlsx", "t.parquet"])
@pytest.mark.parametrize("content", [b"", b"id,sequence\n", b"PK\x03\x04", b"PAR1PAR1"])
def test_other_content_under_the_name_of_a_workbook_or_parquet(tmp_path, name, content):
    pytest.importorskip("openpyxl" if name == "t.xlsx" else "pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="not an Excel workbook|cannot be read as Parquet"):
        read_table(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / ("absent" + name))


def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch):
    for name, package in (("t.xlsx", "openpyxl"), ("t.parquet", "pyarrow")):
        (tmp_path / name).write_bytes(b"x")
        monkeypatch.setitem(__import__("sys").modules, package, None)
        with pytest.raises(InputError, match=f"needs the package {package}\\S*; run: pip install"):
            read_table(tmp_path / name)


def parquet(path, **columns):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_reads_like_a_delimited_file(tmp_path):
    ids, sequences, labels = (list(column) for column in zip(*ROWS))
    pa = pytest.importorskip("pyarrow")
    when = pa.array([0, 1, 2], pa.timestamp("s"))
    data = read_table(parquet(tmp_path / "t.parquet", Name=ids, seq=sequences, label=labels, when=when))
    check(data)
    assert data.place(2) == "row 3"
    data = read_table(parquet(tmp_path / "t.parquet", sequence=sequences, labels=[["a", "b"], [], ["b"]]))
    assert data.targets.tolist() == [[True, True], [False, False], [False, True]]
    data = read_table(
        parquet(tmp_path / "t.parquet", sequence=sequences, targets=[[1.5, 2.0], [0.1, 1e-9], [3.0, 4.0]])
    )
    assert data.targets.tolist() == [[1.5, 2.0], [0.1, 1e-9], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([None, "x"], "1 of 2 are labels; row 1 is empty"),
        ([0.5, float("nan")], "1 of 2 are numbers; row 2 is 'nan'"),
        ([b"x", b"y"], "row 1: column 'label' is of type bytes"),
        ([{"a": 1}, {"a": 2}], "row 1: column 'label' is of type dict"),
    ],
)
def test_cells_of_parquet_that_hold_nothing_readable(tmp_path, labels, message):
    with pytest.raises(InputError, match=message):
        read_table(parquet(tmp_path / "t.parquet", sequence=["MK", "ML"], label=labels))


FASTA = ">p1 class=x n\nMK\nA\n>p2 class=y\nMLL\n\n>p3 class=x\nMVV\n"


@pytest.mark.parametrize("name", ["t.fasta", "t.fa.gz"])
def test_fasta_with_the_label_in_its_header(tmp_path, name):
    data = read_table(write(tmp_path / name, FASTA), label_regex=r"class=(\S+)")
    check(data)
    assert data.lines == (1, 4, 7)
    terms = write(tmp_path / "m.fasta", ">p1 a;b\nMK\n>p2 b\nML\n")
    data = read_table(terms, "multilabel", label_regex=r" (.+)$")
    assert data.targets.tolist() == [[True, True], [False, True]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "FASTA needs --label-regex.*the first header is 'p1 class=x n'"),
        ({"label_regex": r"class=(\S+) n"}, "matches 1 of 3 headers; line 4 is 'p2 class=y'"),
        ({"label_regex": r"class=x|class=(y)"}, "matches 1 of 3 headers; line 1 is"),
        ({"label_regex": "class="}, "has no group"),
        ({"label_regex": "(class="}, "is not a regular expression"),
        ({"label_regex": "(x)", "id_column": "id"}, "--id-column: .*which has no columns"),
    ],
)
def test_headers_of_fasta_without_a_label(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        read_table(write(tmp_path / "t.fasta", FASTA), **options)


LONG = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ"


@pytest.mark.parametrize(
    ("cells", "sequences", "note"),
    [
        ((f"{LONG}*", "mka*", "MK"), (LONG, "MKA", "MK"), "the stop '*' removed at the end of 2 of 3 sequences"),
        (("ACGT acgt\nAC", "GG"), ("ACGTACGTAC", "GG"), "white space removed inside 1 of 2 sequences"),
        (("ATGCAT TGCATG GCATGA", "AACC"), ("ATGCATGA", "AACC"), "overlapping k-mers joined to one sequence in 1 of 2"),
        (("ATG TGC GCA", "ATG CCC"), ("ATGTGCGCA", "ATGCCC"), "white space removed inside 2 of 2"),
        (("AAAA AAAA", "GG"), ("AAAAAAAA", "GG"), "white space removed inside 1 of 2"),
        (("Paris", "MK"), ("PARIS", "MK"), "small letters are read as capitals in 1 of 2 sequences (first: line 2)"),
        (("acgt", "MK"), ("ACGT", "MK"), ""),
        (("CC(=O)Oc1ccccc1", "CCO", "c1ccccc1"), ("CC(=O)Oc1ccccc1", "CCO", "c1ccccc1"), ""),
        (("mktay", "**"), ("MKTAY", "**"), "small letters are read as capitals in 1 of 2 sequences"),
        (("AAA AAA", "CCC CCC"), ("AAAAAA", "CCCCCC"), "white space removed inside 2 of 2"),
        ((f"{LONG[:10]} {LONG[10:20]} {LONG[20:23]}", "MK"), (LONG[:23], "MK"), "white space removed inside 1 of 2"),
        ((LONG, LONG, "MK AYI"), (LONG, LONG, "MKAYI"), "removed inside 1 of 3 sequences (first: line 4)"),
        (("A good film *", "So-so."), ("A good film *", "So-so."), ""),
        (("A CAT SAT", "THE END"), ("A CAT SAT", "THE END"), ""),
        (("Strengthening connections", "so"), ("Strengthening connections", "so"), ""),
        (("None of it", "-", "?"), ("None of it", "-", "?"), ""),
    ],
)
def test_letters_are_tidied_and_text_is_not(tmp_path, cells, sequences, note):
    rows = "".join(f'"{cell}",{"xy"[i % 2]}\n' for i, cell in enumerate(cells))
    data = read_table(write(tmp_path / "t.csv", "sequence,label\n" + rows))
    assert data.sequences == sequences
    assert any(note in each for each in data.notes) if note else not data.notes


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("MK-A", "line 2: column 'sequence': a gap '-' at position 3 of 'MK-A'"),
        ("acg.t", r"a gap '\.' at position 4"),
        ("*", "is a stop '\\*' and nothing else"),
    ],
)
def test_gaps_are_refused(tmp_path, cell, message):
    with pytest.raises(InputError, match=message):
        read_table(write(tmp_path / "t.csv", f"sequence,label\n{cell},x\nMK,y\n"))


def test_rows_of_a_workbook_in_any_order_and_cells_far_out(tmp_path):
    path = workbook(tmp_path / "t.xlsx", [("id", "sequence", "label"), *ROWS])
    part = "xl/worksheets/sheet1.xml"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    first, *others = re.findall(rb"<row .*?</row>", parts[part])
    parts[part] = parts[part].replace(b"".join([first, *others]), b"".join([first, *reversed(others)]))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    check(read_table(path))
    far = [("id", "sequence", "label"), *ROWS, *[()] * 9000, ("",) * 16000 + ("far",)]
    with pytest.raises(InputError, match=r"spans 9,005 rows of 16,001 columns; save the table as CSV"):
        read_table(workbook(path, far))


def test_invisible_characters_in_a_header_hide_no_column(tmp_path):
    text = "\ufeff\ufeffid,\u200bsequence\u00a0,label\u200b\na,MKA,x\nb,MLL,y\n"
    assert read_table(write(tmp_path / "t.csv", text)).ids == ("a", "b")


def test_rows_of_empty_cells_are_counted_and_passed_over(tmp_path):
    data = read_table(write(tmp_path / "t.csv", "sequence,label\nMKA,x\nMLL,y\n,\n , \n"))
    assert len(data) == 2
    assert data.notes == ("2 of 4 rows are of empty cells alone and passed over",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sequence,label\nMKA,x\nsequence,label\nMLL,y\n", "line 3: the header of line 1 is repeated there"),
        ("# made today\nsequence,label\nMKA,x\n", "line 1 .'# made today'. is read as the header: remove"),
        ("My table,\nsequence,label\nMKA,x\n", "line 1 is read as the header: remove a title"),
        ("sequence,label\nMKA,x\n# checked\n", "line 3: 1 cells .* remove the comment"),
        ("sequence,label\nMKA,x,\n", "line 2: 3 cells .* remove the separators at the ends of lines"),
    ],
)
def test_lines_that_are_no_rows_are_refused_with_the_remedy(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_table(write(tmp_path / "t.csv", text))


@pytest.mark.parametrize("first", ["sep=,", '"sep=;"', "sep=;,"])
def test_the_separators_own_line_in_each_form(tmp_path, first):
    assert len(read_table(write(tmp_path / "t.csv", f"{first}\nsequence,label\nMKA,x\nMLL,y\n"))) == 2


def test_a_repeated_header_and_rows_of_blanks_in_a_workbook(tmp_path):
    book = pytest.importorskip("openpyxl").Workbook()
    for row in (["sequence", "label"], ["MKA", "x"], ["MLL", "y"], [" ", " "]):
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    assert len(read_table(tmp_path / "t.xlsx")) == 2
    book.active.append(["sequence", "label"])
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(InputError, match="row 5: the header of row 1 is repeated there"):
        read_table(tmp_path / "t.xlsx")
