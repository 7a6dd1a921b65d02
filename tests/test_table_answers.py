"""The answers of a table: which task they are, missing ones, numbers with commas, and labels of every spelling."""

import pytest

from covjax.data import read_table
from covjax.data.dataset import label_name_notes, read_label_names
from covjax.errors import InputError

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def sequence(i):
    return "M" + LETTERS[i % 20] + LETTERS[i // 20 % 20] + LETTERS[i // 400]


def table(tmp_path, cells, header="label", mark=",", quote='"'):
    path = tmp_path / "t.csv"
    rows = "".join(f"{sequence(i)}{mark}{quote}{cell}{quote}\n" for i, cell in enumerate(cells))
    path.write_text(f"sequence{mark}{header}\n" + rows, encoding="utf-8")
    return path


NUMBERS = [f"{0.5 + i / 7:.3f}" for i in range(292)]
TEMPERATURES = [str(30 + i % 50) for i in range(300)]


@pytest.mark.parametrize(
    ("cells", "task", "note"),
    [
        (["0", "1"] * 5, "multiclass", ""),
        (["0.0", "1.0"] * 5, "multiclass", "0.0 and 1.0 are read as classes"),
        ([str(i % 10) for i in range(40)], "multiclass", "10 different whole numbers are read as classes"),
        ([str(i % 20) for i in range(100)], "multiclass", "20 different whole numbers are read as classes"),
        ([str(i % 20) for i in range(99)], "regression", "whole numbers with 20 different values"),
        (TEMPERATURES, "regression", "whole numbers with 50 different values are read as amounts (regression)"),
        (NUMBERS, "regression", ""),
        ([f"{i},5" for i in range(12)], "regression", "decimal commas: '0,5' is read as 0.5"),
        (["1.1.1.1", "2.7.11.1"] * 4, "multiclass", ""),
        (["True", "false"] * 4, "multiclass", ""),
        (["Na", "K", "Ca"] * 4, "multiclass", ""),
        (["+", "-"] * 4, "multiclass", ""),
        (["=1+1", "@x", 'a ""quoted"" one', "x;y"], "multiclass", "line 5 is 'x;y', read as one class"),
    ],
)
def test_the_task_of_a_column_and_what_is_said(tmp_path, cells, task, note):
    data = read_table(table(tmp_path, cells))
    assert data.task == task
    assert len(data) == len(cells)
    assert [note in each for each in data.notes] == [True] * bool(note)
    if task == "multiclass":
        spelled = {"0.0": "0", "1.0": "1"}
        assert data.target_names == tuple(sorted({spelled.get(c, c).replace('""', '"') for c in cells}))
    else:
        assert data.targets[:, 0].tolist() == [float(cell.replace(",", ".")) for cell in cells]


def test_the_given_task_goes_before_the_rule(tmp_path):
    assert len(read_table(table(tmp_path, TEMPERATURES), "multiclass").target_names) == 50
    assert read_table(table(tmp_path, ["0", "1"]), "regression").targets.tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize("spelling", ["", " ", "NA", "N/A", "n/a", "nan", "NaN", "None", "null", "-", "?", "#N/A"])
@pytest.mark.parametrize("cells", [["0", "1"] * 6, ["active", "inactive"] * 6, NUMBERS, TEMPERATURES])
def test_a_missing_value_is_no_class_and_no_number(tmp_path, cells, spelling):
    path = table(tmp_path, [*cells[:3], spelling, *cells[3:], spelling])
    with pytest.raises(InputError, match=f"{len(cells)} of {len(cells) + 2} are .*; line 5 is .*; --missing drop"):
        read_table(path)
    data, whole = read_table(path, missing="drop"), read_table(table(tmp_path, cells))
    assert (data.task, data.target_names, data.targets.tolist()) == (
        *(whole.task, whole.target_names),
        whole.targets.tolist(),
    )
    assert data.sequences[:4] == (*map(sequence, (0, 1, 2)), sequence(4))
    assert data.lines[2:4] == (4, 6)
    (note,) = [note for note in data.notes if "left out" in note]
    assert f"2 of {len(cells) + 2} rows left out" in note
    assert "(first: line 5)" in note


def test_a_column_of_numbers_with_other_cells_stays_one(tmp_path):
    cells = [*NUMBERS[:15], "NA", *NUMBERS[15:], *["n.d."] * 7]
    with pytest.raises(InputError, match="292 of 300 are numbers; line 17 is 'NA'; --missing drop .*--task multiclass"):
        read_table(table(tmp_path, cells))
    data = read_table(table(tmp_path, cells), missing="drop")
    assert (data.task, len(data)) == ("regression", 292)
    assert "8 of 300 rows left out, without numbers in column 'label': 'n.d.' 7×, 'NA' 1×" in data.notes[0]
    with pytest.raises(InputError, match="293 of 300 are labels|299 of 300 are labels"):
        read_table(table(tmp_path, cells), "multiclass")


def test_a_class_that_is_called_like_a_missing_value_needs_another_name(tmp_path):
    with pytest.raises(InputError, match="line 2 is 'None'.*; a label that is really called so needs another name"):
        read_table(table(tmp_path, ["None", "acceptor", "donor"]))
    with pytest.raises(InputError, match="0 of 2 are labels; no row is left"):
        read_table(table(tmp_path, ["NA", "?"]), missing="drop")


def test_several_labels_may_be_none_but_not_unknown(tmp_path):
    path = table(tmp_path, ["a;b", "", "b;NA", "NA"], "labels")
    with pytest.raises(InputError, match="2 of 4 are labels; line 4 is 'b;NA'"):
        read_table(path)
    data = read_table(path, missing="drop")
    assert data.targets.tolist() == [[True, True], [False, False]]
    assert data.lines == (2, 3)


@pytest.mark.parametrize("header", ["labels", "Terms", "targets", "GO"])
def test_a_named_column_is_what_its_name_or_the_given_task_says(tmp_path, header):
    path = table(tmp_path, ["1;2", "2;3", "3;1"], header)
    plain = read_table(path, label_column=header)
    assert plain.task == {"GO": "multiclass", "targets": "regression"}.get(header, "multilabel")
    assert read_table(path, "multilabel", label_column=header).target_names == ("1", "2", "3")
    assert read_table(path, "multiclass", label_column=header).target_names == ("1;2", "2;3", "3;1")
    assert read_table(path, "regression", label_column=header).targets.tolist() == [[1, 2], [2, 3], [3, 1]]


@pytest.mark.parametrize("mark", [",", "|"])
def test_labels_without_semicolons_are_refused_with_the_remedy(tmp_path, mark):
    cells = [f"a{mark}b", f"c{mark}b", "", "a"]
    with pytest.raises(InputError, match=r"2 of 3 cells hold .* and none ';' \(line 2 is .*separate labels by ';'"):
        read_table(table(tmp_path, cells, "labels"))
    data = read_table(table(tmp_path, ["DNA binding, bending;b", "b", f"c{mark}d"], "labels"))
    assert "DNA binding, bending" in data.target_names


@pytest.mark.parametrize("mark", [",", ";"])
def test_decimal_commas(tmp_path, mark):
    data = read_table(table(tmp_path, ["45,3", "-0,027", "1,5e-3", "7"], mark=mark))
    assert data.targets[:, 0].tolist() == [45.3, -0.027, 0.0015, 7.0]
    data = read_table(table(tmp_path, ["1,5;2,25", "3;0,5"], "targets", mark))
    assert data.targets.tolist() == [[1.5, 2.25], [3.0, 0.5]]


def test_three_digits_behind_a_comma_are_decimals_only_where_semicolons_separate(tmp_path):
    cells = ["1,234", "2,500", "950"]
    with pytest.raises(InputError, match=r"line 2: '1,234' can be read in two ways"):
        read_table(table(tmp_path, cells))
    data = read_table(table(tmp_path, cells, mark=";"))
    assert data.targets[:, 0].tolist() == [1.234, 2.5, 950.0]
    assert data.notes == ("decimal commas: '1,234' is read as 1.234",)


@pytest.mark.parametrize("mark", [",", ";"])
@pytest.mark.parametrize("cell", ["1,234,567", "1.234,5", "1,234.5", "1 234", "2.5"])
def test_numbers_that_could_be_read_in_two_ways(tmp_path, cell, mark):
    with pytest.raises(InputError, match=f"line 4: '{cell}' can be read in two ways"):
        read_table(table(tmp_path, ["0,5", "1,5", cell], mark=mark))


@pytest.mark.parametrize("cell", ["inf", "-Infinity", "1e999"])
@pytest.mark.parametrize("missing", ["refuse", "drop"])
def test_infinity_is_refused(tmp_path, cell, missing):
    with pytest.raises(InputError, match=f"line 4 is '{cell}', which is not finite"):
        read_table(table(tmp_path, ["0.5", "1.5", cell]), missing=missing)
    with pytest.raises(InputError, match="which is not finite"):
        read_table(table(tmp_path, ["0.5;1", f"{cell};2"], "targets"), missing=missing)


@pytest.mark.parametrize("unit", ["%", " nM", " °C"])
def test_amounts_with_a_unit_are_no_classes(tmp_path, unit):
    path = table(tmp_path, [f"{i},5{unit}" for i in range(12)])
    with pytest.raises(InputError, match=f"12 of 12 cells are numbers with the unit '{unit.strip()}'"):
        read_table(path)
    assert len(read_table(path, "multiclass").target_names) == 12
    assert read_table(table(tmp_path, [f"{i}e-5" for i in range(12)])).task == "regression"


def test_classes_that_differ_by_case_are_said(tmp_path):
    data = read_table(table(tmp_path, ["Active", "active", "not"]))
    assert data.target_names == ("Active", "active", "not")
    assert data.notes == ("labels 'Active' and 'active' differ by case only and count as two",)


@pytest.mark.parametrize("cell", ["1_000", "²", "١٢", "0x10", "−3", "5 °C", "<5"])
def test_what_only_looks_like_a_number_is_none(tmp_path, cell):
    with pytest.raises(InputError, match="292 of 293 are numbers; line 294 is"):
        read_table(table(tmp_path, [*NUMBERS, cell]))


def test_targets(tmp_path):
    path = table(tmp_path, ["1;2", "NA", "3;NA", "5;6"], "targets")
    with pytest.raises(InputError, match="2 of 4 are numbers; line 3 is 'NA'; --missing drop"):
        read_table(path)
    assert read_table(path, missing="drop").targets.tolist() == [[1, 2], [5, 6]]
    with pytest.raises(InputError, match="line 2 is '1,5'; separate targets by ';' and write decimal points"):
        read_table(table(tmp_path, ["1,5", "2,5"], "targets"))


@pytest.mark.parametrize("cell", ["", "nan", "NA", "None"])
def test_missing_sequences(tmp_path, cell):
    path = tmp_path / "t.csv"
    path.write_text(f"sequence,label\n{'MKAYLL' * 3},x\n{cell},y\n{'MKAYLV' * 3},y\n{'MKAYLG' * 3},y\n")
    with pytest.raises(InputError, match="line 3: column 'sequence' is .*--missing drop"):
        read_table(path)
    data = read_table(path, missing="drop")
    assert data.lines == (2, 4, 5)
    assert data.notes == ("1 of 4 rows left out, without a sequence (first: line 3)",)


def test_short_peptides_may_spell_na(tmp_path):
    assert read_table(table(tmp_path, ["a", "b"])).sequences[0] == "MAAA"
    (tmp_path / "t.csv").write_text("sequence,label\nNA,x\nAN,y\n")
    assert read_table(tmp_path / "t.csv").sequences == ("NA", "AN")


def test_label_names(tmp_path):
    path = tmp_path / "names.tsv"
    path.write_bytes('Label\tother\tNAME\na\t1\t"a ""b"", c"\nb\t2\t\n'.encode("utf-16"))
    names = read_label_names(str(path))
    assert names == {"a": 'a "b", c', "b": "b"}
    data = read_table(table(tmp_path, ["a;c", "c"], "labels"))
    assert label_name_notes(names, data, "n.csv") == [
        "n.csv: 1 labels have no name ('c')",
        "n.csv: 1 labels are not in the data ('b')",
    ]
    assert label_name_notes({}, data, "") == []
    with pytest.raises(
        InputError,
        match=r"n.csv: none of its labels \('z', …\) is in t.csv .*; give the file of these labels, or --label",
    ):
        label_name_notes({"z": "Z"}, data, "n.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"label,nom\na,b\n", "columns 'label,? nom'; label and name are needed"),
        (b"label,name\na,b\n\na,c\n", "line 4: label 'a' is already in line 2"),
        (b"label,name\n,c\n", "line 2: the label is empty"),
        (b'label,name\n"a,c\n', "never closed"),
        (b"label,name\na,\xe9\n", "line 2: the byte 0xe9"),
        (b"\x1f\x8b\x08\x00", "damaged gzip"),
        (b"", "the file is empty"),
        (b"label,name\n", "a header but no rows"),
    ],
)
def test_damaged_label_names(tmp_path, content, message):
    (tmp_path / "n.csv").write_bytes(content)
    with pytest.raises(InputError, match=f"label_names: .*n.csv.*{message}"):
        read_label_names(str(tmp_path / "n.csv"))


@pytest.mark.parametrize(
    "form", ["−{}.5", ">{}.5", "{}.5±0.1", "({}.5)", "${}.5", "{}.5D-03", "1_{:03}", "2024-01-{:02}"]
)
def test_numbers_in_another_spelling_are_no_classes(tmp_path, form):
    path = table(tmp_path, [form.format(i + 1) for i in range(12)])
    with pytest.raises(InputError, match="12 of 12 cells look like numbers or dates but cannot be read as numbers"):
        read_table(path)
    assert len(read_table(path, "multiclass").target_names) == 12
    few = read_table(table(tmp_path, [form.format(i % 3 + 1) for i in range(12)]))
    assert (few.task, len(few.target_names)) == ("multiclass", 3)


@pytest.mark.parametrize("cell", ["n.a.", "--", ".", "#NA", "-nan", "#REF!", "#DIV/0!"])
def test_more_spellings_of_nothing_are_no_class(tmp_path, cell):
    path = table(tmp_path, ["x", "y", cell])
    with pytest.raises(InputError, match="2 of 3 are labels; line 4 is"):
        read_table(path)
    assert read_table(path, missing="drop").target_names == ("x", "y")


def test_few_decimal_numbers_are_amounts_and_that_is_said(tmp_path):
    data = read_table(table(tmp_path, ["1.0", "2.0", "3.0"] * 5))
    assert data.task == "regression"
    assert [note.endswith("--task multiclass reads them as classes") for note in data.notes] == [True]


@pytest.mark.parametrize(
    ("cells", "how"),
    [
        (["cell wall", "cell  wall"], "blanks or invisible characters"),
        (["A", "A\u200b"], "blanks or invisible characters"),
        (["01", "1", "2"], "leading zeros"),
    ],
)
def test_labels_that_look_alike_are_said(tmp_path, cells, how):
    data = read_table(table(tmp_path, cells))
    assert data.target_names == tuple(sorted(cells))
    assert [f"differ by {how} only and count as two" in note for note in data.notes] == [True]


def test_a_list_or_labels_joined_by_commas_are_not_one_label(tmp_path):
    with pytest.raises(InputError, match="without brackets and quotes: a;b"):
        read_table(table(tmp_path, ["['a', 'b']", "['a']"], "labels"))
    with pytest.raises(InputError, match=r"1 of 4 cells hold ',' and none ';' \(line 4 is 'a, b'\)"):
        read_table(table(tmp_path, ["a", "b", "a, b", "c"], "labels"))
    assert "binding, of DNA" in read_table(table(tmp_path, ["a", "b", "binding, of DNA"], "labels")).target_names
    assert "'a, b', read as one class" in read_table(table(tmp_path, ["a", "b", "a, b"])).notes[0]


@pytest.mark.parametrize(("header", "task"), [("label", "multiclass"), ("labels", "multilabel")])
def test_a_decimal_zero_makes_no_other_class_and_no_other_group(tmp_path, header, task):
    data = read_table(table(tmp_path, ["1", "2", "1.0", "2.00", "3.5", "10", "10.10"], header), task)
    assert data.target_names == ("1", "10", "10.10", "2", "3.5")
    assert any("labels 1.0 and 1 are one" in note for note in data.notes)
    assert read_table(table(tmp_path, ["1.0", "2.0"], header), task).target_names == ("1.0", "2.0")
    path = tmp_path / "t.csv"
    path.write_text("sequence,label,group\nMA,x,1\nMC,y,1.0\nMD,x,2.0\n")
    data = read_table(path)
    assert data.groups == ("1", "1", "2.0")
    assert any("groups 1.0 and 1 of column 'group' are one" in note for note in data.notes)
