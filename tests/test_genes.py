"""Genes from GTF and FASTA on a genome small enough to cut by hand."""

import gzip

import pytest

from covjax.data.genes import Gene, cut_gene, gene_sequences, main, read_genes
from covjax.data.genome import block_name, overlap_blocks
from covjax.data.sequences import read_sequences
from covjax.errors import InputError

GENOME = ">chr1 first\nAACCGGTT\nACGTNacg\n>chr2\nTTTTCCCC\n"


def exon(chromosome, start, end, strand, gene, biotype="protein_coding", feature="exon"):
    attributes = f'gene_id "{gene}"; gene_name "n;{gene}"; gene_biotype "{biotype}";'
    return f"{chromosome}\tsrc\t{feature}\t{start}\t{end}\t.\t{strand}\t.\t{attributes}"


GTF = "\n".join(
    [
        "#!genome-build x",
        exon("chr1", 1, 16, "+", "A", feature="gene"),
        exon("chr1", 3, 4, "+", "A"),
        exon("chr1", 8, 10, "+", "A"),
        exon("chr1", 4, 5, "+", "A"),  # another transcript
        exon("chr2", 5, 8, "-", "B"),
        exon("chr2", 1, 2, "-", "B"),
        exon("chr1", 10, 12, "-", "C", "lncRNA"),
        exon("chr1", 1, 2, "+", "D"),
        exon("chr2", 1, 2, "+", "D"),
    ]
)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "g.fa").write_text(GENOME)
    with gzip.open(tmp_path / "g.gtf.gz", "wt") as file:
        file.write(GTF + "\n")
    return tmp_path


def options(folder, **more):
    given = {"gtf": "g.gtf.gz", "genome": "g.fa", "output": "out.fasta.gz"}
    paths = {name: str(folder / file) for name, file in given.items()}
    return [part for name, value in (paths | more).items() for part in (f"--{name}", value)]


def test_exons_are_united_over_transcripts(files):
    genes, left_out = read_genes(files / "g.gtf.gz")
    assert genes == [
        Gene("A", "chr1", "+", ((2, 5), (7, 10))),
        Gene("B", "chr2", "-", ((0, 2), (4, 8))),
        Gene("C", "chr1", "-", ((9, 12),)),
    ]
    assert left_out == ["D"]
    assert [gene.name for gene in read_genes(files / "g.gtf.gz", biotype="lncRNA")[0]] == ["C"]
    assert read_genes(files / "g.gtf.gz", name="gene_name")[0][0].name == "n;A"


@pytest.mark.parametrize(
    ("part", "flank", "a", "b"),
    [
        ("span", 0, "CCGGTTAC", "GGGGAAAA"),
        ("exons", 0, "CCGTAC", "GGGGAA"),
        ("span", 2, "AACCGGTTACGT", "GGGGAAAA"),  # chr2 has nothing on either side of B
        ("exons", 1, "ACCGTACG", "GGGGAA"),
    ],
)
def test_sequences_by_hand(files, part, flank, a, b):
    found = {
        gene.name: sequence
        for gene, sequence in gene_sequences(read_genes(files / "g.gtf.gz")[0], files / "g.fa", part, flank)
    }
    assert found["A"] == a
    assert found["B"] == b
    assert found["C"] == {0: "ACG", 1: "NACGT", 2: "tNACGTA"}[flank]


def test_no_nucleotide_is_in_two_groups():
    intervals = [("c", 0, 50), ("c", 90, 120), ("c", 110, 130), ("c", 140, 150), ("d", 95, 99), ("c", 20, 30)]
    assert overlap_blocks(intervals, 100) == ["c:0-100", "c:0-100", "c:0-100", "c:100-200", "d:0-100", "c:0-100"]
    assert block_name("c", 199, 100) == "c:100-200"
    with pytest.raises(InputError, match="block: 0 must be >= 1"):
        block_name("c", 1, 0)


def test_the_command_writes_fasta_with_groups(files, capsys):
    main(options(files, part="exons", block="8"))
    text = gzip.decompress((files / "out.fasta.gz").read_bytes()).decode()
    assert text == ">A group=chr1:0-8\nCCGTAC\n>C group=chr1:0-8\nACG\n>B group=chr2:0-8\nGGGGAA\n"
    out = capsys.readouterr().out
    assert "3 genes in 2 groups" in out
    assert "1 genes on two chromosomes or strands, such as D" in out
    assert read_sequences(files / "out.fasta.gz")[0] == ("A", "C", "B")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("chr", "", "genes: chromosome '1' is not in"),
        ("chr", "", "it has 'chr1', 'chr2'; they differ by 'chr'"),
        (".\t+", ".\t.", "line 3: strand '.' is not + or - (5 of 8 exons are odd)"),
        ("gene_id", "id", "line 3: an exon whose attribute 'gene_id' is '', not one word"),
        ("src\t", "src ", "line 2: 8 columns, fewer than the 9 of GTF"),
        ("exon", "CDS", "no exon in it, but 'CDS', 'gene'"),
        ("#!genome-build x", "##gff-version 3", "line 1: '##gff-version 3': GTF is read"),
    ],
)
def test_bad_files_are_one_line_and_leave_nothing(files, capsys, old, new, message):
    with gzip.open(files / "g.gtf.gz", "wt") as file:
        file.write(GTF.replace(old, new))
    with pytest.raises(SystemExit) as caught:
        main(options(files))
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not (files / "out.fasta.gz").exists()


@pytest.mark.parametrize(
    ("old", "new", "genes", "message"),
    [
        ("\t8\t10\t", "\t10\t8\t", "ACB", "left out 1 of 8 exons: line 4: start '10' and end '8' are not 1 <= start"),
        ("\t8\t10\t", "\t8\t1²\t", "ACB", "line 4: start '8' and end '1²' are not"),
        ("\t8\t10\t", f"\t8\t{'1' * 5000}\t", "ACB", "(5,000 characters) are not"),
        ("\t8\t10\t", "\t8.0\t10\t", "ACB", "line 4: start '8.0'"),
        ("\t10\t12\t.\t-", "\t10\t12\t.\t.", "AB", "line 8: strand '.' is not + or -"),
        ("\t10\t12\t", "\t10\t99\t", "AB", "left out 1 of 3 genes: gene 'C' ends at 99, beyond 'chr1' of 16 letters"),
        ('gene_id "C"', 'id "C"', "AB", "line 8: an exon whose attribute 'gene_id' is '', not one word"),
        ('gene_id "C"', 'gene_id "C D"', "AB", "is 'C D', not one word"),
        ("chr2\tsrc\texon\t5", "chr3\tsrc\texon\t5", "AC", "genes on two chromosomes or strands, such as B, D"),
        ("chr2", "chr3", "AC", "genes: left out 1 on 1 chromosomes that are not in"),
        ("#!genome-build x", "a line of prose", "ACB", "line 1: 1 columns, fewer than the 9 of GTF: 'a line of prose'"),
    ],
)
def test_odd_records_are_left_out_and_named(files, capsys, old, new, genes, message):
    with gzip.open(files / "g.gtf.gz", "wt", encoding="utf-8") as file:
        file.write(GTF.replace(old, new))
    main(options(files))
    assert "".join(read_sequences(files / "out.fasta.gz")[0]) == genes
    out, err = capsys.readouterr()
    assert message in out
    assert err == ""


@pytest.mark.parametrize(
    "attributes",
    [
        'gene_id "A";',
        'note "x; gene_id B; y"; gene_id "A"',
        'note "\\"; gene_id B"; gene_id "A"',
        "gene_id A; level 2",
        'a-b "gene_id"; gene_id\t"A"; gene_id "B"',
    ],
)
def test_attributes_are_read_as_they_are_quoted(tmp_path, attributes):
    (tmp_path / "g.gtf").write_text(f"c\ts\texon\t1\t2\t.\t+\t.\t{attributes}\n")
    assert [gene.name for gene in read_genes(tmp_path / "g.gtf")[0]] == ["A"]


def test_a_library_call_says_on_stderr_what_it_leaves_out(files, capsys):
    with gzip.open(files / "g.gtf.gz", "at") as file:
        file.write("a line of prose\n")
    read_genes(files / "g.gtf.gz")
    assert capsys.readouterr().err.startswith(f"warning: {files / 'g.gtf.gz'}: left out 1 of 9 exons: line 11: 1 col")


def test_two_chromosomes_of_one_name(files):
    (files / "g.fa").write_text(GENOME + ">chr1 again\nACGT\n")
    with pytest.raises(InputError, match=r"g.fa: line 6: 'chr1' is already in line 1"):
        list(gene_sequences(read_genes(files / "g.gtf.gz")[0], files / "g.fa"))


def test_bad_options():
    gene = Gene("A", "chr1", "+", ((0, 2),))
    with pytest.raises(InputError, match="part: 'cds' is not one of span, exons"):
        cut_gene(gene, "ACGT", "cds")
    with pytest.raises(InputError, match="flank: -1 must be >= 0"):
        cut_gene(gene, "ACGT", flank=-1)
