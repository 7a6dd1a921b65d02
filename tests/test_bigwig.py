"""bigWig: every kind of item, both byte orders, other programs' files, and damage as one line."""

import numpy as np
import pytest

from covjax.data.bigwig import BigWig
from covjax.errors import InputError
from tests.bigwig_files import BEDGRAPH, FIXED, VARIABLE, block, write

CHROMOSOMES = {"chr1": 60, "chr10": 9, "chr2": 30}
BLOCKS = [
    block(0, FIXED, [1.0, 2.0, 3.0], start=2),
    block(0, VARIABLE, [4.0, 5.0], start=10, step=7, span=3),
    block(0, BEDGRAPH, [6.0, 7.0, 8.0], start=40, step=5, span=4),
    block(2, FIXED, [9.0, -1.5], start=0, step=20, span=10),
]


def expected(chromosome):
    values = np.full(CHROMOSOMES[chromosome], np.nan)
    for number, _, starts, span, _, numbers in BLOCKS:
        if list(CHROMOSOMES)[number] == chromosome:
            for start, value in zip(starts, numbers):
                values[start : start + span] = value
    return values


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_values_of_every_window(tmp_path, order, packed):
    write(tmp_path / "x.bw", CHROMOSOMES, BLOCKS, order, packed)
    with BigWig(tmp_path / "x.bw") as file:
        assert file.chromosomes == CHROMOSOMES
        for name, length in CHROMOSOMES.items():
            for start in range(length):
                for end in range(start, length + 1):
                    np.testing.assert_array_equal(file.values(name, start, end), expected(name)[start:end])
        for start, end in ((-1, 4), (5, 61), (7, 6)):
            with pytest.raises(InputError, match=f"x.bw: {start}-{end} is outside 'chr1' of 60 nucleotides"):
                file.values("chr1", start, end)


def test_files_of_another_program(tmp_path):
    pybigtools = pytest.importorskip("pybigtools")
    rng = np.random.default_rng(0)
    items = []
    for name, length in (("a", 300_000), ("b", 5000)):
        starts = np.arange(0, length - 9, 9)
        ends = starts + rng.integers(1, 10, len(starts))
        items += [
            (name, *row, value) for *row, value in zip(starts.tolist(), ends.tolist(), rng.normal(size=len(starts)))
        ]
    pybigtools.open(str(tmp_path / "x.bw"), "w").write({"a": 300_000, "b": 5000, "c": 7}, items)
    other = pybigtools.open(str(tmp_path / "x.bw"))
    with BigWig(tmp_path / "x.bw") as file:
        assert file.chromosomes == other.chroms()
        for name, length in file.chromosomes.items():
            whole = other.values(name, 0, length, fillna=None)
            np.testing.assert_array_equal(file.values(name, 0, length), whole)
            for start in range(0, length, 997):
                end = min(start + 1100, length)
                np.testing.assert_array_equal(file.values(name, start, end), whole[start:end])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "its first bytes are not those of one"),
        (b"hello" * 100, "its first bytes are not those of one"),
        (b"\xeb\xf2\x89\x87" + b"\0" * 60, "a bigBed file, not a bigWig"),
        (None, "Is a directory"),
    ],
)
def test_other_files(tmp_path, content, message):
    path = tmp_path
    if content is not None:
        path = tmp_path / "x.bw"
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        BigWig(path)


def test_a_place_of_terabytes_is_refused(tmp_path):
    """The number of bytes comes from the file: it must not be asked of the memory."""
    write(tmp_path / "x.bw", CHROMOSOMES, BLOCKS)
    whole = (tmp_path / "x.bw").read_bytes()
    for at in range(0, 64, 8):
        (tmp_path / "x.bw").write_bytes(whole[:at] + b"\xff" * 8 + whole[at + 8 :])
        if at in (8, 24):  # the places of the two trees; the others are of what is not read here
            with pytest.raises(InputError, match="cannot be read as bigWig: damaged"):
                BigWig(tmp_path / "x.bw")
        elif at:
            with BigWig(tmp_path / "x.bw") as file:
                np.testing.assert_array_equal(file.values("chr1", 0, 60), expected("chr1"))
