"""Damaged files of every format: exactly the records that a plain parser finds, or InputError, and nothing else."""

import contextlib
import csv
import gzip
import io
import random
import re

import numpy as np
import pytest

from covjax.data import genes, ontology, tracks
from covjax.data.bigwig import BigWig
from covjax.data.gene_ontology import read_gaf, read_obo
from covjax.data.genes import read_genes
from covjax.data.genome import read_bed
from covjax.data.sequences import read_sequences
from covjax.data.text import stream_fasta
from covjax.errors import InputError
from tests.bigwig_files import BEDGRAPH, FIXED, VARIABLE, block, write
from tests.plain_readers import (
    plain_bed,
    plain_bigwig,
    plain_fasta,
    plain_fasta_sequences,
    plain_gaf,
    plain_gtf,
    plain_lines,
    plain_obo,
    plain_table,
    plain_text,
)

TIMES = 110  # mutations of a format
ODD = [*'²٣\x85\u2028\x0c\ufeff">;\t,\0\\\r\n é', '""', "\r\n"]
NUCLEOTIDES = random.Random(1).choices("ACGT", k=400)


def letters(n, seed):
    return "".join(random.Random(seed).choices("ACDEFGHIKLMNPQRSTVWY", k=n))


NAMES = [f"p{i}" for i in range(12)]
FASTA = "".join(f">{name} text\n{letters(30, i)}\n{letters(9, i)}\n\n" for i, name in enumerate(NAMES))
TABLE = [["id", "sequence", "note"]] + [[name, letters(20, i), f'a "{i}", b'] for i, name in enumerate(NAMES)]
GENOME = f">chr1 x\n{''.join(NUCLEOTIDES[:300])}\n>chr2\n{''.join(NUCLEOTIDES[300:])}\n"
BED = "track name=x\n#c\n" + "".join(
    f"chr{1 + i % 2}\t{i * 5}\t{i * 5 + 8}\tw{i}\t0\t{'+-.'[i % 3]}\n" for i in range(15)
)
GTF = "#!x\n" + "".join(
    f"chr{1 + i % 2}\ts\t{'exon' if i % 4 else 'gene'}\t{i * 4 + 1}\t{i * 4 + 9}\t.\t{'+-'[i % 2]}\t."
    f'\tgene_id "g{i // 4}_{i % 2}"; n "a;b";\n'
    for i in range(24)
)
GAF = "!gaf-version: 2.2\n!c\n" + "".join(
    "\t".join(
        [
            "DB",
            f"p{i}",
            "s",
            "NOT|x" if i == 5 else "x",
            f"F:{i % 6}",
            "R",
            "IDA" if i % 3 else "IEA",
            "",
            "F",
            "",
            "",
            "protein",
            "t",
            "d",
            "DB\n",
        ]
    )
    for i in range(14)
)
OBO = "format-version: 1.2\n" + "".join(
    f"\n[Term]\nid: F:{i}\nname: term {i}\nnamespace: f\n" + (f"is_a: F:{i // 2} ! up\n" if i else "")
    for i in range(12)
)


def delimited(separator):
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows(TABLE)
    return text.getvalue()


def mutated(content, rng, text):
    """One to three changes: of bytes anywhere, or, in a text, of lines, line ends, encoding and awkward characters."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        at, size = rng.randrange(len(content) + 1), rng.randrange(1, 12)
        kind = rng.randrange(10 if text else 4)
        if kind == 0:
            content = content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
        elif kind == 1:
            content = content[:at] + content[at + size :]
        elif kind == 2:
            content = content[:at] if rng.random() < 0.3 else content[:at] + content[at : at + size] + content[at:]
        elif kind == 3:
            content = content[:at] + rng.randbytes(size) + content[at + size :]
        elif kind <= 6:
            content = content[:at] + rng.choice(ODD).encode() + content[at + (kind == 4) :]
        elif kind == 7:
            content = content.replace(b"\n", rng.choice([b"\r\n", b"\r"]))
        elif kind == 8:
            lines = content.split(b"\n")
            rng.shuffle(lines)
            content = b"\n".join(lines)
        else:
            with contextlib.suppress(UnicodeDecodeError):
                content = content.decode().encode(
                    rng.choice(["utf-8-sig", "utf-16", "utf-16-be", "latin-1"]), "replace"
                )
        if not content:
            break
    return content


def attempt(read):
    """The result of a reader and None, or None and its one line; no other exception passes."""
    try:
        return read(), None
    except InputError as error:
        return None, str(error)


def counted(read):
    """A reader's result with the number of records that its summary names."""
    notes = []
    result = read(notes.append)
    numbers = [int(re.search(r"left out ([\d,]+)", note)[1].replace(",", "")) for note in notes]
    return result, sum(numbers)


def own_gtf(path):
    (found, _), odd = counted(lambda report: read_genes(path, report=report))
    return {g.name: [g.chromosome, g.strand, sorted({p for a, b in g.exons for p in range(a, b)})] for g in found}, odd


def own_bed(path):
    regions, odd = counted(lambda report: read_bed(path, report))
    return [(r.chromosome, r.start, r.end, r.name, r.strand, r.line) for r in regions], odd


IDA = frozenset({"IDA"})
FORMATS = {
    "fasta": (FASTA, lambda path: [(h, s) for _, h, s in stream_fasta(path)], plain_fasta),
    "fa": (FASTA, read_sequences, plain_fasta_sequences),
    "csv": (delimited(","), read_sequences, plain_table(",\t;")),
    "tsv": (delimited("\t"), read_sequences, plain_table("\t")),
    "txt": ("\n".join(letters(20, i) for i in range(9)) + "\n\n", read_sequences, plain_text),
    "bed": (BED, own_bed, plain_bed),
    "gtf": (GTF, own_gtf, plain_gtf),
    "gaf": (GAF, lambda path: counted(lambda r: [tuple(a) for a in read_gaf(path, IDA, report=r)]), plain_gaf),
    "obo": (OBO, lambda path: read_obo(path, [].append).names, plain_obo),
}


@pytest.mark.parametrize("packed", ["", ".gz", "inside.gz"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_text(tmp_path, suffix, packed):
    text, read, plain = FORMATS[suffix]
    whole = text.encode()
    path = tmp_path / f"x.{suffix}{packed and '.gz'}"
    rng = random.Random(f"{suffix}{packed}")
    successes = 0
    for i in range(TIMES):
        content = gzip.compress(whole, mtime=0) if packed == ".gz" else whole
        if i:  # the first is as it was
            content = mutated(content, rng, packed != ".gz")
        if packed == "inside.gz":
            content = gzip.compress(content, mtime=0)
        path.write_bytes(content)
        result, message = attempt(lambda: read(path))
        if message:
            assert i, message
            assert "\n" not in message
            assert len(message) < 600 + 2 * len(str(path))
            continue
        lines = plain_lines(content)
        assert lines is not None, content
        assert result == plain(lines), content
        successes += 1
    assert successes >= (1 if packed == ".gz" else TIMES // 8)


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path, rng, successes = tmp_path / "x.parquet", random.Random(4), 0
    table = pyarrow.table({"id": NAMES, "sequence": [letters(60, i) for i in range(12)], "n": list(range(12))})
    parquet.write_table(table, path, compression="zstd", write_page_checksum=True)
    whole = path.read_bytes()
    for i in range(TIMES):
        path.write_bytes(mutated(whole, rng, False) if i else whole)
        result, message = attempt(lambda: read_sequences(path))
        if message:
            assert i, message
            assert "\n" not in message
            continue
        columns = [name for name in ("id", "sequence") if name in parquet.read_schema(path).names]
        cells = parquet.read_table(path, columns=columns).to_pydict()
        assert result == (tuple(cells.get("id") or (f"row{n}" for n in range(1, 13))), tuple(cells["sequence"]))
        successes += 1
    assert successes


BLOCKS = [
    block(0, FIXED, [float(i) for i in range(40)]),
    block(0, VARIABLE, [1.5, 2.5, 3.5], start=60, step=9, span=4),
    block(0, BEDGRAPH, [4.5, -1.0], start=200, step=30, span=20),
    block(1, FIXED, [float(i) for i in range(100)]),
]


def own_bigwig(path):
    with BigWig(path) as file:
        return {
            (file._numbers[name], position): value
            for name, length in file.chromosomes.items()
            for position, value in enumerate(file.values(name, 0, min(length, 1000)))
            if not np.isnan(value)
        }


@pytest.mark.parametrize("packed", [True, False])
def test_bigwig(tmp_path, packed):
    path, rng, successes = tmp_path / "x.bw", random.Random(packed), 0
    write(path, {"chr1": 300, "chr2": 100}, BLOCKS, packed=packed)
    whole = path.read_bytes()
    for i in range(2 * TIMES):
        content = bytearray(whole)
        for _ in range(rng.randrange(1, 4) if i else 0):
            content[rng.randrange(len(content))] = rng.choice([0, 1, 255, rng.randrange(256)])
        content = bytes(content[: rng.randrange(len(content))] if i % 7 == 1 else content)
        path.write_bytes(content)
        read, message = attempt(lambda: own_bigwig(path))
        if message:
            assert i, message
            assert "\n" not in message
            continue
        assert read == plain_bigwig(content, packed, BLOCKS)
        successes += 1
    assert successes >= TIMES // 8


TRACK = {"chr1": 300, "chr2": 100}


@pytest.mark.parametrize(
    ("command", "names", "options"),
    [
        (genes.main, {"gtf": GTF, "genome": GENOME}, {"output": "o.fa"}),
        (
            ontology.main,
            {"obo": OBO, "gaf": GAF, "fasta": FASTA},
            {"output": "o.csv", "namespace": "f", "min-count": 1},
        ),
        (
            tracks.main,
            {"bed": BED, "genome": GENOME},
            {"output": "o.csv", "bigwig": "x.bw", "missing": "zero", "scale": "none"},
        ),
    ],
)
def test_commands_end_well_or_with_one_line_and_status_2(tmp_path, capfd, monkeypatch, command, names, options):
    monkeypatch.chdir(tmp_path)
    rng, ends = random.Random(3), []
    write(tmp_path / "x.bw", TRACK, BLOCKS)
    bigwig = (tmp_path / "x.bw").read_bytes()
    arguments = [
        part for name, value in (dict.fromkeys(names) | options).items() for part in (f"--{name}", str(value or name))
    ]
    for i in range(60):
        odd = rng.choice([*names, "bigwig"]) if i else ""
        for name, text in names.items():
            (tmp_path / name).write_bytes(mutated(text.encode(), rng, True) if name == odd else text.encode())
        if odd == "bigwig":
            (tmp_path / "x.bw").write_bytes(mutated(bigwig, rng, False))
        try:
            command(arguments)
            status, expected = 0, 0
            (output,) = tmp_path.glob("o.*")
            read_sequences(output)  # what a command writes, the reader takes
        except SystemExit as error:
            status, expected = error.code, 1
        out, err = capfd.readouterr()
        assert status in (0, 2)
        assert len(err.splitlines()) == expected, err
        assert bool(out) == (status == 0)
        (tmp_path / options["output"]).unlink(missing_ok=True)
        (tmp_path / "x.bw").write_bytes(bigwig)
        ends.append(status)
    assert ends[0] == 0
    assert {0, 2} == set(ends)
