"""Parquet: every layout of text is read, every other type and every damage is one line."""

import pytest

from covjax.data.sequences import read_sequences
from covjax.errors import InputError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def write(path, **columns):
    parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize(
    "kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())]
)
def test_text_of_every_layout(tmp_path, kind):
    column = pyarrow.array(["MK", "ML", "MK\u2028"]).cast(kind)
    ids = pyarrow.array(["a", None, "c"]).cast(kind)
    path = write(tmp_path / "x.parquet", sequence=column, id=ids, other=[b"x", b"y", b"z"])
    assert read_sequences(path) == (("a", "row2", "c"), ("MK", "ML", "MK"))


def test_whole_numbers_are_ids(tmp_path):
    path = write(tmp_path / "x.parquet", sequence=["MK", "ML"], id=[7, 8])
    assert read_sequences(path) == (("7", "8"), ("MK", "ML"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sequence": [1, 2]}, "column 'sequence' is of type 'int64'; save it as text"),
        ({"sequence": [b"MK", b"ML"]}, "column 'sequence' is of type 'binary'; save it as text"),
        ({"sequence": [["MK"], ["ML"]]}, "is of type 'list<"),
        ({"sequence": ["MK", "ML"], "id": [0.5, 1.5]}, "column 'id' is of type 'double'; save it as text or whole"),
        ({"sequence": ["MK", None]}, "row 2: the sequence of 'row2' is empty"),
        ({"sequence": pyarrow.nulls(2)}, "row 1: the sequence of 'row1' is empty"),
        ({"sequence": ["MK", "ML"], "id": ["a", "a"]}, "row 2: id 'a' is already in row 1"),
        ({"seq": ["MK"]}, "missing column 'sequence'; its columns: 'seq'"),
    ],
)
def test_other_columns_are_refused(tmp_path, columns, message):
    with pytest.raises(InputError, match=message):
        read_sequences(write(tmp_path / "x.parquet", **columns))


def test_files_that_are_no_whole_parquet(tmp_path):
    whole = write(tmp_path / "x.parquet", sequence=["MK", "ML"]).read_bytes()
    for content in (b"", b"sequence\nMK\n", whole[:-9], whole[9:], whole[:4] + bytes(40) + whole[44:]):
        (tmp_path / "x.parquet").write_bytes(content)
        with pytest.raises(InputError, match=r"x.parquet: cannot be read as Parquet: ") as caught:
            read_sequences(tmp_path / "x.parquet")
        assert "\n" not in str(caught.value)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(InputError, match="Is a directory"):
        read_sequences(tmp_path / "folder.parquet")
