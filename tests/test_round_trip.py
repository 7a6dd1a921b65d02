"""What a command writes, the library's own readers take, whatever the names are."""

import pytest

from covjax.data import genes, ontology, read_table, tracks
from covjax.data.sequences import read_sequences
from tests.bigwig_files import FIXED, block, write

NAMES = ["a,b", 'q"q', '"x"', ">g", ";g", "row3", "é\u200b", "'n", "a;b", "-", "sp|a"]
LETTERS = "ACGTTGCAACGGT" * 4


def run(command, folder, **options):
    command([part for name, file in options.items() for part in (f"--{name}", str(folder / file))])


@pytest.mark.parametrize("name", NAMES)
def test_genes(tmp_path, name):
    (tmp_path / "g.fa").write_text(f">{name}\n{LETTERS}\n", encoding="utf-8")
    quoted = name.replace('"', '\\"')
    exons = [(1, 5, quoted), (7, 11, "plain")]
    lines = (f'{name}\ts\texon\t{first}\t{last}\t.\t+\t.\tgene_id "{gene}"\n' for first, last, gene in exons)
    (tmp_path / "x.gtf").write_text("".join(lines), encoding="utf-8")
    run(genes.main, tmp_path, gtf="x.gtf", genome="g.fa", output="out.fa")
    assert read_sequences(tmp_path / "out.fa") == ((name, "plain"), (LETTERS[:5], LETTERS[6:11]))


@pytest.mark.parametrize("name", NAMES)
def test_tracks(tmp_path, name):
    (tmp_path / "g.fa").write_text(f">{name}\n{LETTERS}\n", encoding="utf-8")
    (tmp_path / "x.bed").write_text(f"{name}\t0\t8\n{name}\t4\t12\n{name}\t4\t12\n", encoding="utf-8")
    write(tmp_path / "x.bw", {name: len(LETTERS)}, [block(0, FIXED, [float(i) for i in range(len(LETTERS))])])
    run(tracks.main, tmp_path, bed="x.bed", genome="g.fa", bigwig="x.bw", output="out.csv")
    data = read_table(tmp_path / "out.csv")
    assert data.ids == (f"{name}:0-8", f"{name}:4-12")
    assert data.sequences == (LETTERS[:8], LETTERS[4:12])
    assert data.groups == (f"{name}:0-100000",) * 2


@pytest.mark.parametrize("name", NAMES[:-2])  # "-" is no name, and GAF separates by "|"
def test_labels(tmp_path, name):
    root = "[Term]\nid: F:0\nname: root\nnamespace: f\n"
    term = f"[Term]\nid: F:1\nname: {name}\\n two\nnamespace: f\nis_a: F:0\n"
    other = "[Term]\nid: F:2\nname: other\nnamespace: f\nis_a: F:0\n"
    (tmp_path / "x.obo").write_text(root + term + other, encoding="utf-8")
    line = "DB\t{}\ts\tx\t{}\tR\tIDA\t\tF\t\t\tprotein\tt\td\tDB\n"
    annotations = line.format(name, "F:1") + line.format("plain", "F:2")
    (tmp_path / "x.gaf").write_text("!gaf-version: 2.2\n" + annotations, encoding="utf-8")
    (tmp_path / "x.fa").write_text(f">{name} group={name}\nMKV\n>plain\nMKL\n>{name}\nMKL\n>none\n", encoding="utf-8")
    options = {"obo": "x.obo", "gaf": "x.gaf", "fasta": "x.fa", "output": "out.csv"}
    arguments = [part for key, file in options.items() for part in (f"--{key}", str(tmp_path / file))]
    ontology.main([*arguments, "--namespace", "f", "--min-count", "1"])
    data = read_table(tmp_path / "out.csv")
    assert data.ids == (name, "plain")
    assert data.sequences == ("MKV", "MKL")
    assert data.groups == (name, "plain")
    assert set(data.target_names) == {f"F:1 {name.replace(';', ',')}  two", "F:2 other"}
