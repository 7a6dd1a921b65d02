"""Tables of the yeast genome from a small made-up one: windows, peaks, what stands around them, genes."""

import csv
import gzip

import numpy as np
import pytest

from covjax.data import read_table
from covjax.data.dataset import read_label_names
from covjax.data.letters import reverse_complement
from covjax.data.targets import target_names_path
from covjax.errors import InputError
from covjax.sources import SOURCES, write_source, yeast
from covjax.sources.yeast import Orf, window_covariates

LENGTH = 8500  # of every chromosome: eight windows and a rest
CHROMOSOMES = ("chr1", "chr2", "chr3", "chr4", "chr12", "chr16")


def gene(rng, codons):
    return "ATG" + "".join(rng.choice(yeast.CODONS, codons - 2)) + "TAA"


@pytest.fixture
def small_genome(tmp_path, rng, monkeypatch):
    """`data/yeast` with a window of chr1 that stands on the other strand of chr4 too, and 40 genes."""
    monkeypatch.setattr(yeast, "BLOCK", 2000)
    monkeypatch.setattr(yeast, "FEWEST", 5)
    folder = tmp_path / "shared" / "data" / "yeast"
    folder.mkdir(parents=True)
    genome = {name: "".join(rng.choice(list("ACGT"), LENGTH)) for name in CHROMOSOMES}
    rows = []
    for name in CHROMOSOMES:
        for block, strand in zip(range(0, 8000, 2000), "+-+-"):
            coding = gene(rng, 100)
            start, piece = block + 600, coding if strand == "+" else reverse_complement(coding)
            genome[name] = genome[name][:start] + piece + genome[name][start + 300 :]
            status = "Verified"
            rows.append([f"{name}_{block}", status, "", name, start, start + 300, strand, 20.0, 8.0, ""])
    genome["chr4"] = genome["chr4"][:5100] + reverse_complement(genome["chr1"][5000:6000]) + genome["chr4"][6100:]
    rows += [["stopped", "Verified", "", "chr1", 3000, 3301, "+", 20.0, 8.0, ""]]
    rows += [["dubious", "Dubious", "", "chr1", 0, 8000, "+", 20.0, 8.0, ""]]
    rows += [["unmeasured", "Verified", "", "chr1", 4600, 4900, "+", 20.0, "", ""]]
    for number, row in enumerate(rows):
        if row[7] and row[8]:
            row[7], row[8] = 5.0 + number, 3.0 + number
    columns = ["gene", "status", "name", "chrom", "start", "end", "strand", "fpkm", "half_life", "description"]
    write(folder / "genes.tsv.gz", [columns, *rows])
    peaks = [["protein", "chrom", "position", "score"]]
    for protein, count in (("Abf1", 60), ("Reb1", 90), ("Rare", 2)):
        for _ in range(count):
            peaks.append([protein, str(rng.choice(CHROMOSOMES)), int(rng.integers(LENGTH)), 5])
    write(folder / "chipexo_peaks.tsv.gz", peaks)
    with gzip.open(folder / "sacCer3.fa.gz", "wt") as file:
        file.writelines(f">{name}\n{sequence}\n" for name, sequence in genome.items())
    return tmp_path / "shared", genome, peaks[1:]


def write(path, rows):
    with gzip.open(path, "wt", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(rows)


def test_windows_and_their_peaks(small_genome, tmp_path):
    shared, genome, peaks = small_genome
    path = write_source("yeast_chipexo", tmp_path / "w.csv.gz", shared)
    data = read_table(path, covariates=SOURCES["yeast_chipexo"].covariates)
    names = read_label_names(str(target_names_path(path)))
    assert names == {"target1": "Abf1", "target2": "Reb1"}  # in the order of the file; the rare one is left out
    for i, name in enumerate(data.ids):
        chromosome, _, place = name.partition(":")
        start, end = map(int, place.split("-"))
        assert data.sequences[i] == genome[chromosome][start:end]
        assert end - start == 1000
        for j, protein in enumerate(("Abf1", "Reb1")):
            count = sum(p == protein and c == chromosome and start <= at < end for p, c, at, _ in peaks)
            assert data.targets[i, j] == pytest.approx(np.log1p(count), abs=1e-5)
    held_out = [name.partition(":")[0] in yeast.HELD_OUT for name in data.ids]
    assert [split == "test" for split in data.splits] == held_out
    # The copied window shares most of its letters with two windows of chr4: a group of its own, whole in the test set.
    assert "chr1:5000-6000" not in data.ids
    groups = {name: group for name, group in zip(data.ids, data.groups)}
    assert groups["chr4:5000-6000"] == "copies of chr1:5000-6000"
    assert groups["chr4:4000-5000"] == "chr4:4000-6000"
    assert groups["chr16:7000-8000"] == "chr16:6000-8000"
    # Every other window is there: 48 of them, less the copied one.
    assert len(data) == 47


def test_occupancy_counts_every_protein(small_genome, tmp_path):
    shared, _, peaks = small_genome
    data = read_table(write_source("yeast_occupancy", tmp_path / "o.csv.gz", shared))
    place = data.ids.index("chr12:1000-2000")
    count = sum(c == "chr12" and 1000 <= at < 2000 for _, c, at, _ in peaks)
    assert data.targets[place, 0] == pytest.approx(np.log1p(count), abs=1e-5)


def test_what_stands_around_a_window_against_a_loop_over_nucleotides(rng):
    length, window = 5230, 250
    orfs = []
    for i in range(9):
        start = int(rng.integers(0, length - 300))
        orfs.append(Orf(f"g{i}", "chr1", start, start + int(rng.integers(60, 300)), "+-"[i % 2], None, None))
    table = window_covariates(orfs, length, window)
    assert table.shape == (length // window, 4)
    firsts = [orf.start if orf.strand == "+" else orf.end - 1 for orf in orfs]
    for number, row in enumerate(table):
        places = range(number * window, (number + 1) * window)
        inside = [any(orf.start <= at < orf.end for orf in orfs) for at in places]
        upstream = [
            any(
                (orf.start - 500 <= at < orf.start) if orf.strand == "+" else (orf.end <= at < orf.end + 500)
                for orf in orfs
            )
            for at in places
        ]
        before = [a and not b for a, b in zip(upstream, inside)]
        nearest = min(abs(first - (number * window + window // 2)) for first in firsts)
        starts = sum(first in places for first in firsts)
        np.testing.assert_allclose(row, [np.mean(inside), np.mean(before), starts, np.log1p(nearest)])
    np.testing.assert_allclose(window_covariates([], 1000, 250)[:, 3], np.log1p(1000))


@pytest.mark.parametrize("flanks", [False, True])
def test_genes(small_genome, tmp_path, flanks):
    shared, genome, _ = small_genome
    name = "yeast_genes_flanks" if flanks else "yeast_genes"
    covariates = SOURCES[name].covariates
    data = read_table(write_source(name, tmp_path / "g.csv.gz", shared), covariates=covariates)
    assert len(data) == 24  # one in every block: neither the broken one, nor the dubious, nor the unmeasured
    assert set(data.ids) & {"stopped", "dubious", "unmeasured"} == set()
    assert {i.partition("_")[0] for i, split in zip(data.ids, data.splits) if split == "test"} == {*yeast.HELD_OUT}
    row = data.ids.index("chr2_2000")  # on the other strand
    np.testing.assert_allclose(data.targets[row], np.log([5.0 + 5, 3.0 + 5]), atol=1e-5)
    other = reverse_complement(genome["chr2"])
    start = LENGTH - 2900
    if flanks:
        assert data.sequences[row] == other[start - 500 : start] + other[start + 300 : start + 550]
        return
    coding = other[start : start + 300]
    assert data.sequences[row] == coding
    codons = [coding[i : i + 3] for i in range(0, 297, 3)]
    expected = [codons.count(name.removeprefix("codon_")) / 99 for name in covariates]
    np.testing.assert_allclose(data.covariates[row], expected, atol=1e-5)
    assert len(covariates) == 61


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "chipexo_peaks.tsv.gz",
            "protein\tchrom\tposition\nAbf1\tchr1\t9000\n",
            "line 2: not as published: 'chr1:9000'",
        ),
        ("chipexo_peaks.tsv.gz", "protein\tchrom\tposition\nAbf1\tchrM\t9\n", "line 2: not as published"),
        ("genes.tsv.gz", "gene\tchrom\nA\tchr1\n", "line 1: not as published"),
        ("sacCer3.fa.gz", ">chr1\nACGT\n", "not as published: no chr4"),
    ],
)
def test_a_damaged_file_is_one_line(small_genome, tmp_path, file, text, message):
    shared, *_ = small_genome
    with gzip.open(shared / "data" / "yeast" / file, "wt") as damaged:
        damaged.write(text)
    with pytest.raises(InputError, match=f"{file}: {message}"):
        write_source("yeast_chipexo", tmp_path / "x.csv.gz", shared)
    assert not (tmp_path / "x.csv.gz").exists()


def test_few_rows_leave_out_proteins_that_a_split_does_not_have(small_genome, capsys):
    shared, *_ = small_genome
    rows, names = SOURCES["yeast_chipexo"].build(shared, (12, 4, 8))
    assert len(rows) <= 24
    assert 1 <= len(names) <= 2
    assert f"{2 - len(names)} absent from a split" in capsys.readouterr().out
    assert all(len(row.answer.split(";")) == len(names) for row in rows)
