"""Tables and splits: what is read, and every kind of bad input named by file, row and column."""

import gzip

import numpy as np
import pytest

from covjax.data import align, assign_splits, check_splits, read_table
from covjax.data.sequences import read_sequences
from covjax.errors import InputError


def write(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def table(tmp_path, rows, header="sequence,label,split,group"):
    return read_table(write(tmp_path, "\n".join([header, *rows]) + "\n"))


def test_multilabel_columns(tmp_path):
    data = read_table(write(tmp_path, "id,sequence,labels\np1,mka,b;a\np2,MLL,\np3,MV,b\n"))
    assert data.task == "multilabel"
    assert data.sequences == ("MKA", "MLL", "MV")
    assert data.target_names == ("a", "b")
    assert data.targets.tolist() == [[True, True], [False, False], [False, True]]
    assert data.ids == ("p1", "p2", "p3")


@pytest.mark.parametrize(
    ("labels", "task"),
    [(("1", "0", "1"), "multiclass"), (("x", "1.5", "2"), "multiclass"), (("1", "2.5", "-3e1"), "regression")],
)
def test_task_is_taken_from_the_label_column(tmp_path, labels, task):
    data = read_table(write(tmp_path, "sequence,label\n" + "".join(f"MK{'A' * i},{v}\n" for i, v in enumerate(labels))))
    assert data.task == task


def test_regression_values(tmp_path):
    data = read_table(write(tmp_path, "sequence,label\nMK,1\nMA,2.5\n"), task="regression")
    assert data.targets.tolist() == [[1.0], [2.5]]


def test_several_targets(tmp_path):
    data = read_table(write(tmp_path, "sequence,targets\nMK,1;-2.5\nMA,3;4e1\n"))
    assert (data.task, data.target_names) == ("regression", ("target1", "target2"))
    assert data.targets.tolist() == [[1.0, -2.5], [3.0, 40.0]]


def test_text_keeps_its_case_and_residues_do_not(tmp_path):
    text = read_table(write(tmp_path, "sequence,label\nWho was Galileo ?,a\nEh,b\n"))
    assert text.sequences == ("Who was Galileo ?", "Eh")
    assert text.is_text
    residues = read_table(write(tmp_path, "sequence,label\nmKa,a\nEh,b\n"))
    assert residues.sequences == ("MKA", "EH")
    assert not residues.is_text


def test_a_sequence_longer_than_the_csv_module_allows(tmp_path):
    path = write(tmp_path, f"sequence,label\n{'ACGT' * 50_000},a\nAC,b\n")
    assert [len(s) for s in read_table(path).sequences] == [200_000, 2]
    assert len(read_sequences(path)[1][0]) == 200_000


def test_tsv_and_gzip_read_the_same(tmp_path):
    plain = read_table(write(tmp_path, "sequence\tlabel\nMK\ta\nMA\tb\n", "t.tsv"))
    with gzip.open(tmp_path / "t.tsv.gz", "wt") as file:
        file.write("sequence\tlabel\nMK\ta\nMA\tb\n")
    packed = read_table(tmp_path / "t.tsv.gz")
    assert packed.sequences == plain.sequences
    assert packed.fingerprint() == plain.fingerprint()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv: the file is empty"),
        ("sequence,label\n", "a header but no rows"),
        (
            "sequnce,label\nMK,1\n",
            "missing column 'sequence'; .*did you mean 'sequnce'.*--sequence-column",
        ),
        ("sequence,value\nMK,1\n", "missing column 'label' or 'labels'"),
        ("sequence,label,labels\nMK,1,2\n", "are both"),
        ("sequence,labels,targets\nMK,1,2\n", "columns 'labels' and 'targets' are both"),
        ("sequence,targets\nMK,1;2\nMA,1\n", "line 3 is '1': 1 targets, but 2 in line 2"),
        ("sequence,targets\nMK,1;2\nMA,1;\n", "1 of 2 are numbers; line 3 is '1;'"),
        ("sequence,targets\nMK,1;inf\nMA,1;2\n", "line 2 is '1;inf', which is not finite"),
        ("sequence,label\nMK,1\n ,0\n", "line 3: column 'sequence' is empty"),
        ("sequence,label\nMK,1,9\n", "line 2: 3 cells separated by comma, but 2"),
        ("sequence,label\nMK\n", "line 2: 1 cells separated by comma, but 2"),
        ("id,sequence,label\na,MK,1\na,MA,0\n", "line 3: id 'a' is already in line 2"),
        ("sequence,label\nMK,a\nMA,a\n", "1 different label"),
        ("sequence,label\nMK,a\nMA,\n", "column 'label': 1 of 2 are labels; line 3 is empty"),
        ("sequence,label\nMK,1.5\nMA,nan\n", "1 of 2 are numbers; line 3 is 'nan'; --missing drop"),
        (
            "sequence,label,split\nMK,1,trian\nMA,0,train\n",
            "line 2: split 'trian' is not one of",
        ),
        ("sequence,label,group\nMK,1,a\nMA,0,\n", "line 3: column 'group' is empty"),
        ("sequence,sequence,label\nMK,MK,1\n", "column 'sequence' occurs 2 times"),
    ],
)
def test_bad_tables_are_named(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        read_table(path)
    assert "t.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("header", "task", "message"),
    [
        ("targets", "multiclass", "task multiclass needs column 'label', found 'targets'"),
        ("labels", "regression", "task regression needs column 'label' or 'targets', found 'labels'"),
        ("label", "multilabel", "task multilabel needs column 'labels', found 'label'"),
    ],
)
def test_a_column_of_another_task_is_refused(tmp_path, header, task, message):
    with pytest.raises(InputError, match=message):
        read_table(write(tmp_path, f"sequence,{header}\nMK,1\nMA,2\n"), task=task)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "absent.csv")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"sequence,label\n" * 100)[:40])
    with pytest.raises(InputError, match="cannot be read as text"):
        read_table(tmp_path / "cut.csv.gz")


def test_splits_keep_groups_and_duplicates_together_and_are_deterministic(tmp_path):
    rows = [f"M{'KAL'[i % 3]}{'G' * (i // 2)},{i % 2}" for i in range(200)]
    rows += rows[:40]
    rows = [f"i{j},{row}" for j, row in enumerate(rows)]
    data = read_table(write(tmp_path, "id,sequence,label\n" + "\n".join(rows) + "\n"))
    split = assign_splits(data, (0.6, 0.2, 0.2), seed=3)
    assert split.fingerprint() == assign_splits(data, (0.6, 0.2, 0.2), seed=3).fingerprint()
    assert split.fingerprint() != assign_splits(data, (0.6, 0.2, 0.2), seed=4).fingerprint()
    sides = {}
    for sequence, side in zip(split.sequences, split.splits):
        assert sides.setdefault(sequence, side) == side
    shares = [len(split.rows(name)) / len(split) for name in ("train", "validation", "test")]
    np.testing.assert_allclose(shares, (0.6, 0.2, 0.2), atol=0.03)


def test_given_splits_are_kept(tmp_path):
    data = table(tmp_path, ["MK,a,train,1", "MA,b,valid,2", "ML,a,test,3"])
    assert assign_splits(data).splits.tolist() == ["train", "validation", "test"]


GOOD = ["MK,a,train,1", "MA,b,train,2", "ML,a,validation,3", "MV,b,validation,4", "MG,a,test,5", "MP,b,test,6"]


def test_sound_splits_pass(tmp_path):
    check_splits(table(tmp_path, GOOD))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*GOOD[:5], "MP,b,test,1"], r"group '1' is in split 'train' \(line 2\) and in split 'test' \(line 7\)"),
        ([*GOOD[:5], "MK,b,test,6"], r"sequence 'MK' is in split 'train' \(line 2\)"),
        ([*GOOD[:5], "MP,a,test,6"], "label 'a' has the single value present in all 2 rows of the split 'test'"),
        (GOOD[:4], "column 'split' has no row 'test'"),
    ],
)
def test_bad_splits_are_refused(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        check_splits(table(tmp_path, rows))


def test_too_few_groups_for_three_splits(tmp_path):
    data = table(tmp_path, ["MK,a,1", "MA,b,1"], header="sequence,label,group")
    with pytest.raises(InputError, match="leave the split"):
        assign_splits(data)


def test_align_puts_features_into_the_labels_order():
    assert align(["a", "b", "c"], ["c", "a", "b"]).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("features", "labels", "match"),
    [
        (["a", "b"], ["a", "b", "c", "d"], r"2 of 4 ids of the labels have no features \(first 'c', 'd'\)"),
        (["a", "b", "x"], ["a", "b"], r"1 of 3 ids of the features have no labels \(first 'x'\)"),
        (["a", "b", "a"], ["a", "b"], r"1 ids occur more than once in the features \(first 'a'\)"),
    ],
)
def test_align_names_ids_that_do_not_match(features, labels, match):
    with pytest.raises(InputError, match=match):
        align(features, labels)


def test_whether_sequences_are_words_is_found_out_once(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("sequence,label\n" + "".join(f"{'ACDE' * 6}{letter},{letter in 'FG'}\n" for letter in "FGHIK"))
    data = read_table(path)
    calls = []
    monkeypatch.setattr("covjax.data.dataset.has_words", lambda sequences: calls.append(len(sequences)) or False)
    assert [data.is_text for _ in data.sequences] == [False] * 5  # as the data card asks, of every sequence
    assert calls == [5]
