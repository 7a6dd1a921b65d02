"""Track windows on a genome and bigWig files made here; the numbers by hand."""

import numpy as np
import pytest

from covjax.data import read_table
from covjax.data.genome import Region, read_bed
from covjax.data.sequences import read_sequences
from covjax.data.tracks import Cut, binned, cut_windows, main, track_windows
from covjax.errors import InputError
from tests.bigwig_files import FIXED, block, write

CHR1 = "ACGTTGCAAC" * 4
CHR2 = "GGGGCCCCAA"


def test_windows_inside_a_region():
    assert cut_windows(Region("c", 10, 31), 8, 4) == [(10, 18), (14, 22), (18, 26), (22, 30)]
    assert cut_windows(Region("c", 10, 15), 8, 4) == []
    assert cut_windows(Region("c", 10, 15), 0, 4) == [(10, 15)]
    with pytest.raises(InputError, match="stride: 0"):
        cut_windows(Region("c", 1, 2), 1, 0)


def test_bins_are_means_of_equal_stretches():
    assert binned(np.arange(6.0), 3).tolist() == [0.5, 2.5, 4.5]
    with pytest.raises(InputError, match="6 nucleotides cannot be divided into 4 equal bins"):
        binned(np.arange(6.0), 4)


def test_bad_choices():
    with pytest.raises(InputError, match="missing: 'nan' must be error or zero"):
        Cut(missing="nan")
    with pytest.raises(InputError, match="scale: 'log' log1p or none"):
        Cut(scale="log")


def track(path, **values):
    """A bigWig of chr1 and chr2 with one value a nucleotide from each one's start."""
    lengths = {"chr1": len(CHR1), "chr2": len(CHR2)}
    blocks = [block(number, FIXED, values[name]) for number, name in enumerate(lengths) if name in values]
    write(path, lengths, blocks)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "g.fa").write_text(f">chr1 x\n{CHR1[:25]}\n{CHR1[25:]}\n>chr2\n{CHR2}\n")
    (tmp_path / "r.bed").write_text("chr2\t0\t8\tname\t0\t-\nchr1\t0\t24\n")
    for name, values in (("a", np.arange(40.0)), ("b", np.full(40, 2.0))):
        track(tmp_path / f"{name}.bw", chr1=values, chr2=100 + values[:10])
    return tmp_path


def options(folder, **more):
    paths = {"bed": folder / "r.bed", "genome": folder / "g.fa", "output": folder / "out.csv.gz"}
    given = paths | {"bigwig": f"{folder / 'a.bw'},{folder / 'b.bw'}"} | more
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def test_the_command_by_hand(files, capsys):
    main(options(files, window=8, stride=4, centre=4, bins=2, block=16, scale="none"))
    data = read_table(files / "out.csv.gz")
    # chr1 windows start at 0, 4, 8, 12, 16; that at 12 reaches over the edge at 16
    assert data.ids == ("chr1:0-8", "chr1:4-12", "chr1:8-16", "chr1:16-24", "chr2:0-8(-)")
    assert data.sequences[3] == CHR1[16:24]
    assert data.sequences[4] == "GGGGCCCC"  # its own reverse complement
    assert data.targets[3].tolist() == [18.5, 20.5, 2, 2]
    assert data.targets[4].tolist() == [104.5, 102.5, 102, 102]  # the other strand: the last bin first
    assert data.groups == ("chr1:0-16", "chr1:0-16", "chr1:0-16", "chr1:16-32", "chr2:0-16")
    assert "5 windows in 3 groups; left out: 1 over the edge of a block" in capsys.readouterr().out


def test_whole_regions_and_the_logarithm(files):
    found = list(track_windows(files / "r.bed", files / "g.fa", [files / "a.bw"], Cut()))
    np.testing.assert_allclose([w.targets[0] for w in found], np.log1p([11.5, 103.5]))
    assert found[0].sequence == CHR1[:24]


def test_missing_values(files):
    track(files / "a.bw", chr1=[3.0] * 6)
    with pytest.raises(InputError, match="no value for 18 of the nucleotides chr1:0-24; --missing zero"):
        list(track_windows(files / "r.bed", files / "g.fa", [files / "a.bw"], Cut(scale="none")))
    found = list(track_windows(files / "r.bed", files / "g.fa", [files / "a.bw"], Cut(scale="none", missing="zero")))
    assert [w.targets.tolist() for w in found] == [[0.75], [0.0]]


@pytest.mark.parametrize(
    ("more", "bed", "message"),
    [
        ({"bins": 5}, None, "24 nucleotides cannot be divided into 5 equal bins"),
        ({"centre": 30}, None, "centre: 30 must be 0 to 24"),
        ({"block": 3}, None, "no window; 2 lay over the edge of a block"),
        ({"output": "x.txt"}, None, "must end in .csv or .csv.gz"),
        ({"bigwig": "absent.bw"}, None, "absent.bw: cannot be read as bigWig"),
        ({}, "chr1\t30\t41\n", "line 1: window 30-41 is empty or outside 'chr1' of 40 letters"),
        ({}, "chr9\t0\t4\n", "line 1: chromosome 'chr9' is not in"),
        ({}, "chr1 0 4\n", "line 1: not chrom, start, end separated by tabs"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(files, capfd, more, bed, message):
    if bed:
        (files / "r.bed").write_text(bed)
    with pytest.raises(SystemExit) as caught:
        main(options(files, **more))
    assert caught.value.code == 2
    assert message in capfd.readouterr().err
    assert not (files / "out.csv.gz").exists()


def test_another_assembly_and_negative_means(files):
    (files / "g.fa").write_text(f">chr1\n{CHR1}A\n>chr2\n{CHR2}\n")
    with pytest.raises(InputError, match=r"a.bw: 'chr1' has 40 nucleotides, 41 in"):
        list(track_windows(files / "r.bed", files / "g.fa", [files / "a.bw"], Cut()))
    track(files / "a.bw", chr2=[-1.0] * 10)
    (files / "r.bed").write_text("chr2\t0\t8\n")
    with pytest.raises(InputError, match="scale: a mean of -1 in chr2:0-8; use none"):
        list(track_windows(files / "r.bed", files / "g.fa", [files / "a.bw"], Cut()))
    track(files / "a.bw", chr2=[np.inf] * 10)
    with pytest.raises(InputError, match="bigwig: a mean in 'chr2:0-8' is not finite"):
        list(track_windows(files / "r.bed", files / "g.fa", [files / "a.bw"], Cut()))


@pytest.mark.parametrize(
    ("bed", "message"),
    [
        (
            "chr1\t0\t8\nchr1\t0\t8\textra\n",
            "1 windows in 1 groups; left out: 0 over the edge of a block, 1 that stood",
        ),
        ("chr1\t0\t8\nchr1\t30\t41\n", "r.bed: left out 1 of 2 regions: line 2: window 30-41 is empty or outside"),
        ("chr1\t0\t8\nchr1\t8\t8\n", "line 2: window 8-8 is empty"),
        ("chr1\t0\t8\nchr9\t0\t8\n", "r.bed: left out 1 on 1 chromosomes that are not in"),
        ("chr1\t0\t8\nchr1\t²\t8\n", "left out 1 of 2 regions: line 2: not chrom, start, end"),
        ("chr1\t0\t8\nchr1\t-1\t8\n", "line 2: not chrom, start, end"),
        ("chr1\t0\t8\nchr1\t0\t8.5\n", "line 2: not chrom, start, end"),
        (f"chr1\t0\t8\nchr1\t0\t{'1' * 5000}\n", "line 2: not chrom, start, end"),
        ("chr1\t0\t8\nchr1\t0\t8\ta\t0\tx\n", "line 2: strand 'x' is not + or -"),
        ("track name=x\nbrowser position\n#\n\nchr1\t0\t8\nchr1 0 8\n", "line 6: not chrom, start, end"),
    ],
)
def test_odd_regions_are_left_out_and_named(files, capsys, bed, message):
    (files / "r.bed").write_text(bed, encoding="utf-8")
    main(options(files))
    assert read_sequences(files / "out.csv.gz")[0] == ("chr1:0-8",)
    out, err = capsys.readouterr()
    assert message in out
    assert err == ""


def test_a_chromosome_named_track_is_a_region(tmp_path):
    (tmp_path / "r.bed").write_text("track\t0\t8\ntrack1\t0\t8\ntrack name=a\n")
    assert [region.chromosome for region in read_bed(tmp_path / "r.bed")] == ["track", "track1"]
