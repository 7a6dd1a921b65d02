"""Files that are whole or not there."""

import gzip

import pytest

from covjax.errors import InputError
from covjax.jobs.disk import new_text


def put(path, text="a\nβ\n"):
    with new_text(path) as file:
        file.write(text)
    return path.read_bytes()


def test_plain_and_gzip_with_the_same_bytes_each_time(tmp_path):
    assert put(tmp_path / "new" / "x.txt") == "a\nβ\n".encode()
    first = put(tmp_path / "x.txt.gz")
    assert gzip.decompress(first) == "a\nβ\n".encode()
    assert put(tmp_path / "y.txt.gz") == first  # neither time nor name is in the header


def broken(path):
    with new_text(path) as file:
        file.write("half")
        raise ArithmeticError


def test_an_error_inside_leaves_the_old_file_alone(tmp_path):
    put(tmp_path / "x.txt", "old")
    with pytest.raises(ArithmeticError):
        broken(tmp_path / "x.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]
    assert (tmp_path / "x.txt").read_text() == "old"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"x.txt: cannot be written: "):
        put(tmp_path / "file" / "x.txt")
