"""Peaks as tracks: files of one and of many, counted in windows of a genome against a loop, and what is refused."""

import csv
import re

import numpy as np
import pytest

from covjax.data import read_table
from covjax.data.dataset import read_label_names
from covjax.data.peaks import read_peaks
from covjax.data.tracks import Cut, main, track_windows
from tests.bigwig_files import FIXED, block
from tests.bigwig_files import write as write_bigwig

LENGTHS = {"chr1": 1050, "chr2": 430}


@pytest.fixture
def files(tmp_path, rng):
    text = "".join(f">{name}\n{''.join(rng.choice(list('ACGT'), n))}\n" for name, n in LENGTHS.items())
    (tmp_path / "g.fa").write_text(text)
    rows = [
        (track, chromosome, int(rng.integers(LENGTHS[chromosome])))
        for track, count in (("Abf1", 40), ("Reb1", 25), ("Rare", 2))
        for chromosome in rng.choice(list(LENGTHS), count)
    ]
    with open(tmp_path / "peaks.tsv", "w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(
            [("protein", "chrom", "position", "score"), *((*r, 1) for r in rows)]
        )
    return tmp_path, rows


def command(folder, **options):
    given = {"genome": folder / "g.fa", "output": folder / "out.csv.gz", "window": 100, "stride": 100} | options
    main([part for name, value in given.items() for part in (f"--{name}", str(value))])
    data = read_table(folder / "out.csv.gz")
    return data, list(read_label_names(str(folder / "out-names.csv")).values())


def test_windows_of_whole_chromosomes_against_a_loop(files, capsys):
    folder, rows = files
    data, names = command(folder, peaks=folder / "peaks.tsv", fewest=5, block=500)
    assert names == ["Abf1", "Reb1"]
    assert data.ids == (
        *(f"chr1:{i}-{i + 100}" for i in range(0, 1000, 100)),
        *(f"chr2:{i}-{i + 100}" for i in range(0, 400, 100)),
    )
    assert data.groups[4:6] == ("chr1:0-500", "chr1:500-1000")
    for i, name in enumerate(data.ids):
        chromosome, _, start = name.partition("-")[0].partition(":")
        for j, track in enumerate(names):
            count = sum(t == track and c == chromosome and 0 <= at - int(start) < 100 for t, c, at in rows)
            assert data.targets[i, j] == pytest.approx(np.log1p(count), abs=1e-5)
    assert "2 tracks with peaks in 5 windows or more" in capsys.readouterr().out


def test_a_track_needs_so_many_windows_and_no_more(files):
    folder, rows = files
    windows = {
        track: len({(c, at // 100) for t, c, at in rows if t == track and at < LENGTHS[c] // 100 * 100})
        for track, *_ in rows
    }
    most = max(windows.values())
    _, names = command(folder, peaks=folder / "peaks.tsv", fewest=most)
    assert names == [track for track, count in windows.items() if count == most]
    with pytest.raises(SystemExit):
        command(folder, peaks=folder / "peaks.tsv", fewest=most + 1)


def test_bins_centres_and_the_other_strand(files):
    folder, rows = files
    (folder / "r.bed").write_text("chr1\t100\t300\tr\t0\t-\n")
    (peaks,) = [each for each in read_peaks(folder / "peaks.tsv") if each.name == "Abf1"]
    cut = Cut(centre=100, bins=2, block=1000, scale="none")
    (window,) = track_windows(folder / "r.bed", folder / "g.fa", (), cut, peaks=[peaks])
    counts = [sum(t == "Abf1" and c == "chr1" and 0 <= at - low < 50 for t, c, at in rows) for low in (150, 200)]
    assert window.targets.tolist() == counts[::-1]


def test_bed_and_narrow_peaks_beside_a_signal(files):
    folder, _ = files
    (folder / "a.bed").write_text("chr1\t100\t121\nchr1\t90\t101\nchr2\t5\t6\n")
    (folder / "b.narrowPeak").write_text("chr1\t100\t200\tp\t0\t.\t1\t1\t1\t7\nchr1\t300\t320\tp\t0\t.\t1\t1\t1\t-1\n")
    a, b = (read_peaks(folder / name)[0] for name in ("a.bed", "b.narrowPeak"))
    assert {name: places.tolist() for name, places in a.places.items()} == {"chr1": [95, 110], "chr2": [5]}
    assert b.places["chr1"].tolist() == [107, 310]
    write_bigwig(
        folder / "s.bw", LENGTHS, [block(i, FIXED, np.arange(float(n))) for i, n in enumerate(LENGTHS.values())]
    )
    paths = f"{folder / 'a.bed'},{folder / 'b.narrowPeak'}"
    data, names = command(folder, peaks=paths, bigwig=folder / "s.bw", scale="none")
    assert names == ["s", "a", "b"]
    assert data.targets[1].tolist() == [149.5, 1, 1]
    assert data.targets[0].tolist() == [49.5, 1, 0]


def test_a_stretch_of_many_windows_gives_what_one_window_does(files, monkeypatch):
    folder, _ = files
    peaks = read_peaks(folder / "peaks.tsv")
    cut = Cut(window=60, stride=25, block=10_000)
    whole = [each.targets for each in track_windows(None, folder / "g.fa", (), cut, peaks=peaks)]
    monkeypatch.setattr("covjax.data.tracks.STRETCH", 130)
    parts = [each.targets for each in track_windows(None, folder / "g.fa", (), cut, peaks=peaks)]
    assert len(whole) == 40 + 15
    np.testing.assert_array_equal(whole, parts)


@pytest.mark.parametrize(
    ("options", "text", "message"),
    [
        ({}, None, "bigwig, peaks: no track; name files of one or both"),
        ({"window": 0, "peaks": "p.tsv"}, "track,chrom,position\na,chr1,5\n", "window: 0 takes whole regions"),
        ({"peaks": "p.tsv"}, "track,chrom,place\na,chr1,5\n", "no column 'position' among 'track, chrom, place'"),
        ({"peaks": "p.tsv"}, "track,chrom,position\na,chr1,1050\n", "a peak of 'a' at 1050 of 'chr1', which has 1050"),
        ({"peaks": "p.tsv"}, "track,chrom,position\na,1,5\n", "chromosome '1' is not in .* they differ by 'chr'"),
        ({"peaks": "p.tsv"}, "track,chrom,position\na,chr1,x\n", "line 2: no track, chrom or position: 'x'"),
        ({"peaks": "p.tsv", "fewest": 0}, "track,chrom,position\na,chr1,5\n", "fewest: 0 must be >= 1"),
        (
            {"peaks": "p.tsv", "fewest": 9},
            "track,chrom,position\na,chr1,5\n",
            "fewest: no track has peaks in 9 windows",
        ),
        ({"peaks": "p.bed"}, "# nothing\n", "no peak in it"),
    ],
)
def test_what_is_refused_in_one_line(files, capsys, options, text, message):
    folder, _ = files
    if "peaks" in options:
        options = options | {"peaks": folder / options["peaks"]}
        options["peaks"].write_text(text)
    with pytest.raises(SystemExit) as end:
        command(folder, **options)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.search(message, error)
    assert not (folder / "out.csv.gz").exists()
