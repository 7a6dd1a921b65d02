"""The reader of text: encodings, line ends, quoting, and damage named by line."""

import gzip

import pytest

from covjax.data.text import Row, read_delimited, read_text, text_lines, whole_number
from covjax.errors import InputError

PLAIN = "a,b\nx,é\n"
EXPECTED = [Row(1, ("a", "b")), Row(2, ("x", "é"))]


def rows(path):
    table = read_delimited(path)
    return [table.header, *table.rows]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends_read_the_same(tmp_path, end, encoding, packed):
    content = PLAIN.replace("\n", end).encode(encoding)
    (tmp_path / "x.csv").write_bytes(gzip.compress(content) if packed else content)
    assert rows(tmp_path / "x.csv") == EXPECTED


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0c", "\x0b", "\x1c"])
def test_other_separators_are_text(tmp_path, mark):
    (tmp_path / "x.txt").write_text(f"a{mark}b\nc", encoding="utf-8")
    assert list(text_lines(tmp_path / "x.txt")) == [(1, f"a{mark}b"), (2, "c")]


def test_a_line_end_that_two_chunks_share_counts_once(tmp_path, monkeypatch):
    monkeypatch.setattr("covjax.data.text.CHUNK", 3)
    (tmp_path / "x.txt").write_bytes("aé\r\n\r\nb€\r".encode())
    assert list(text_lines(tmp_path / "x.txt")) == [(1, "aé"), (2, ""), (3, "b€")]
    assert read_text(tmp_path / "x.txt") == "aé\n\nb€\n"


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ('"x, y",1\n', ("x, y", "1")),
        ('"x ""y""",1\n', ('x "y"', "1")),
        ('5" pipe,1\n', ('5" pipe', "1")),
        ('"two\nlines, long",1\n', ("two\nlines, long", "1")),
        ('"two\n\nlines",1\n', ("two\n\nlines", "1")),
        (" x ,1", (" x ", "1")),
        ("\u2028,1\n\n\n", ("\u2028", "1")),
    ],
)
def test_cells(tmp_path, text, cells):
    (tmp_path / "x.csv").write_text("a,b\n" + text, encoding="utf-8")
    assert read_delimited(tmp_path / "x.csv").rows == [Row(2, cells)]


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("a;b\n1,5;2\n", ";"),
        ("a\tb\n1,5\t2\n", "\t"),
        ('"a;b",c\n1,2\n', ","),
        ("sep=;\na;b\n1;2\n", ";"),
        ("a\n1\n", ","),
    ],
)
def test_the_separator_is_taken_from_the_header(tmp_path, text, delimiter):
    (tmp_path / "x.csv").write_text(text)
    assert read_delimited(tmp_path / "x.csv").delimiter == delimiter


def test_rows_carry_the_line_they_begin_on(tmp_path):
    (tmp_path / "x.csv").write_text('\na,b\n\n"1\n2",x\n3,y\n')
    table = read_delimited(tmp_path / "x.csv")
    assert [table.header.line, *(row.line for row in table.rows)] == [2, 4, 6]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n \r\n", "the file is empty"),
        (b"a,b\n1\n", "line 2: 1 cells separated by comma, but 2 in the header"),
        (b"a,b\n\n1,2,3\n", "line 3: 3 cells"),
        (b'a,b\n"x"y,1\n', "line 2: text behind a closing quotation mark"),
        (b'a,b\n1,2\n"x\n1,2\n', "lines 3 to 4: a quotation mark is opened and never closed"),
        (b'a\tb\n"x\t1\ny\t2\nsaid z"\t3\n', "lines 2 to 4: a quotation mark opens a cell"),
        ("a,b\nx,é\n".encode("latin-1"), "line 2: the byte 0xe9 is not UTF-8"),
        ("a,b\rx,y\rx,é\r".encode("latin-1"), "line 3: the byte 0xe9 is not UTF-8"),
        (b"sep=;\n", "no header"),
        ("a,b\n".encode("utf-16-le"), "line 1: a NUL character"),
        ("a,b\n".encode("utf-32"), "UTF-32"),
        (b"PK\x03\x04rest", "xlsx"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0)[:-6], "damaged gzip data"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0) + b"more", "damaged gzip data"),
        (
            gzip.compress(b"a,b\n1,2\n", mtime=0)[:10] + b"\xff" + gzip.compress(b"a,b\n1,2\n", mtime=0)[11:],
            "damaged gzip data",
        ),
    ],
)
def test_damage_is_one_line_with_its_place(tmp_path, content, message):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_delimited(tmp_path / "x.csv")
    assert str(error.value).startswith(f"{tmp_path / 'x.csv'}: ")
    assert "\n" not in str(error.value)


def test_files_that_are_not_there_or_misnamed(tmp_path):
    (tmp_path / "x.csv.gz").write_text(PLAIN)
    with pytest.raises(InputError, match="named .gz, but it holds no gzip data"):
        read_text(tmp_path / "x.csv.gz")
    for name in ("absent.csv", "."):
        with pytest.raises(InputError, match="cannot be read as text"):
            read_text(tmp_path / name)
    with pytest.raises(InputError, match="embedded null byte"):
        read_text("a\0b.txt")


@pytest.mark.parametrize("text", ["²", "٣", "1_0", "+1", "-1", "1.0", "", " 1", "1" * 19, "1" * 5000])
def test_only_ascii_digits_are_a_number(text):
    assert whole_number(text) is None
    assert whole_number("0" + "9" * 17) == int("9" * 17)


def test_a_published_file_in_another_encoding(tmp_path):
    (tmp_path / "x.txt").write_bytes("é\x85\n".encode("latin-1"))
    assert list(text_lines(tmp_path / "x.txt", "latin-1")) == [(1, "é\x85")]


def test_letters_are_no_bzip2(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"BZhMK\n")
    assert read_text(tmp_path / "x.txt") == "BZhMK\n"
    (tmp_path / "x.txt").write_bytes(b"BZh91AY&SY")
    with pytest.raises(InputError, match="compressed by bzip2"):
        read_text(tmp_path / "x.txt")


def test_a_file_compressed_twice_is_named(tmp_path):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(gzip.compress(b"a,b\n1,2\n")))
    with pytest.raises(InputError, match="compressed by gzip twice"):
        read_text(path)
