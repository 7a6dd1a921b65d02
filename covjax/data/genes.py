"""Genes as sequences, from a GTF file and a genome.

    python -m covjax.data.genes --gtf genes.gtf.gz --genome genome.fa.gz --part exons --output genes.fasta.gz

Writes FASTA with headers `name group=chrom:start-end`: `covjax.data.ontology` adds labels, `covjax extract` pools.
Both files are read once as streams; one chromosome is held at a time.
"""

import argparse
import dataclasses
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from covjax.data.genome import overlap_blocks, report_absent, stream_chromosomes
from covjax.data.letters import reverse_complement
from covjax.data.text import Report, Skipped, text_lines, warn, whole_number
from covjax.errors import InputError, shown
from covjax.jobs.cli import exit_on_input_error
from covjax.jobs.disk import new_text

COMMAND = "python -m covjax.data.genes"
PARTS = ("span", "exons")
_ATTRIBUTE = re.compile(r'([\w.-]+)\s+(?:"((?:[^"\\]|\\.)*)"|([^";\s]+))')


@dataclasses.dataclass(frozen=True)
class Gene:
    """A gene by the exons of all its transcripts, united: sorted, disjoint, half-open from 0."""

    name: str
    chromosome: str
    strand: str
    exons: tuple[tuple[int, int], ...]

    @property
    def span(self) -> tuple[int, int]:
        """From the first exon's start to the last one's end."""
        return self.exons[0][0], self.exons[-1][1]


def read_genes(
    path: str | Path, name: str = "gene_id", biotype: str = "", report: Report = warn
) -> tuple[list[Gene], list[str]]:
    """Genes of a GTF file from its exon lines, in file order; the second result names genes in two places.

    `name` is the attribute that names a gene. `biotype` keeps the exons whose attribute gene_biotype or gene_type says
    so. A gene with exons on two chromosomes or strands has no one sequence: it is not returned, but named.

    Left out and given to `report` in one summary: lines of fewer than nine columns, and exons with bad coordinates, a
    strand other than + and -, or an attribute `name` that is missing or not one word.

    Raises InputError for an unreadable file, GFF3, a file without any exon (naming what it has), and too many odd lines
    (see `Skipped`).
    """
    exons: defaultdict[str, defaultdict[tuple[str, str], list[tuple[int, int]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    skipped, sound, features = Skipped(path, "exons"), 0, Counter[str]()
    for number, line in text_lines(path):
        if line.startswith("##gff-version"):
            raise InputError(f"{path}: line {number}: {shown(line, 60)}: GTF is read (gffread -T converts GFF3)")
        if line.startswith("#") or not line.strip():
            continue
        fields = line.split("\t", 8)
        if len(fields) < 9:
            skipped.add(f"{len(fields)} columns, fewer than the 9 of GTF: {shown(line, 60)}", number)
            continue
        features[fields[2]] += 1
        if fields[2] != "exon":
            continue
        attributes = _attributes(fields[8])
        if biotype and biotype not in (attributes.get("gene_biotype"), attributes.get("gene_type")):
            continue
        gene, start, end = attributes.get(name, ""), whole_number(fields[3]), whole_number(fields[4])
        if len(gene.split()) != 1 or gene != gene.strip():
            skipped.add(f"an exon whose attribute {shown(name, 40)} is {shown(gene, 60)}, not one word", number)
        elif start is None or end is None or not 1 <= start <= end:
            place = f"start {shown(fields[3], 40)} and end {shown(fields[4], 40)}"
            skipped.add(f"{place} are not 1 <= start <= end", number)
        elif fields[6] not in ("+", "-"):
            skipped.add(f"strand {shown(fields[6], 40)} is not + or -", number)
        else:
            sound += 1
            exons[gene][fields[0], fields[6]].append((start - 1, end))
    skipped.close(sound, report)
    if not exons:
        others = ", ".join(shown(feature, 40) for feature, _ in features.most_common(3))
        kind = f" of biotype {shown(biotype, 40)}" if biotype else ""
        raise InputError(f"{path}: no exon{kind} in it, but {others or 'nothing'}")
    genes = [
        Gene(gene, *place, _united(intervals))
        for gene, places in exons.items()
        if len(places) == 1
        for place, intervals in places.items()
    ]
    return genes, [gene for gene, places in exons.items() if len(places) > 1]


def _attributes(text: str) -> dict[str, str]:
    """`gene_id "X"; gene_name "Y"; level 2;` as a dictionary; of a repeated key the first value."""
    values: dict[str, str] = {}
    for key, quoted, bare in _ATTRIBUTE.findall(text):
        values.setdefault(key, re.sub(r"\\(.)", r"\1", quoted) if "\\" in quoted else quoted or bare)
    return values


def _united(intervals: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Overlapping and touching intervals as one."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(out[-1][1], end)
        else:
            out.append((start, end))
    return tuple(out)


def cut_gene(gene: Gene, chromosome: str, part: str = "span", flank: int = 0) -> str:
    """The gene's sequence on its own strand: its whole span, or its united exons joined.

    `flank` nucleotides are added on both outer sides, fewer where the chromosome ends.

    Raises InputError for another `part`, flank < 0, and a gene beyond the chromosome's end.
    """
    if part not in PARTS:
        raise InputError(f"part: {part!r} is not one of {', '.join(PARTS)}")
    if flank < 0:
        raise InputError(f"flank: {flank} must be >= 0")
    start, end = gene.span
    if end > len(chromosome):
        raise InputError(_beyond(gene, chromosome))
    pieces = [(start, end)] if part == "span" else list(gene.exons)
    pieces[0] = max(start - flank, 0), pieces[0][1]
    pieces[-1] = pieces[-1][0], end + flank  # a slice ends where the chromosome does
    sequence = "".join(chromosome[a:b] for a, b in pieces)
    return reverse_complement(sequence) if gene.strand == "-" else sequence


def _beyond(gene: Gene, chromosome: str) -> str:
    place = f"beyond {shown(gene.chromosome, 40)} of {len(chromosome)} letters"
    return f"gene {shown(gene.name, 40)} ends at {gene.span[1]}, {place}"


def gene_sequences(
    genes: Sequence[Gene], genome: str | Path, part: str = "span", flank: int = 0, report: Report = warn
) -> Iterator[tuple[Gene, str]]:
    """Yield the genes with their sequences, chromosome by chromosome as the genome has them.

    Genes on chromosomes that the genome lacks, and those beyond the end of theirs, are left out; `report` is told how
    many.

    Raises InputError as `cut_gene` does, where the genome has none of the chromosomes, and where too many genes lie
    beyond an end: another assembly (see `Skipped`).
    """
    waiting: defaultdict[str, list[Gene]] = defaultdict(list)
    for gene in genes:
        waiting[gene.chromosome].append(gene)
    present, skipped, sound = [], Skipped(genome, "genes"), 0
    for name, chromosome in stream_chromosomes(genome):
        present.append(name)
        for gene in waiting.get(name, []):
            if gene.span[1] > len(chromosome):
                skipped.add(_beyond(gene, chromosome))
                continue
            sound += 1
            yield gene, cut_gene(gene, chromosome, part, flank)
    report_absent("genes", genome, {name: [0] * len(some) for name, some in waiting.items()}, present, report)
    skipped.close(sound, report)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--gtf", type=Path, required=True, help="genes with their exons")
    parser.add_argument("--genome", type=Path, required=True, help="FASTA of the chromosomes")
    parser.add_argument("--output", type=Path, required=True, help="FASTA to write, also .gz")
    parser.add_argument("--part", choices=PARTS, default="span", help="introns included or not (default: %(default)s)")
    parser.add_argument("--flank", type=int, default=0, help="nucleotides more on both sides (default: %(default)s)")
    parser.add_argument("--name", default="gene_id", help="attribute that names a gene (default: %(default)s)")
    parser.add_argument("--biotype", default="", help="only genes of this gene_biotype or gene_type")
    parser.add_argument("--block", type=int, default=1_000_000, help="nucleotides of one group (default: %(default)s)")
    flags = parser.parse_args(sys.argv[1:] if argv is None else argv)
    notes: list[str] = []
    with exit_on_input_error(COMMAND):
        genes, left_out = read_genes(flags.gtf, flags.name, flags.biotype, notes.append)
        spans = [(g.chromosome, max(g.span[0] - flags.flank, 0), g.span[1] + flags.flank) for g in genes]
        groups = dict(zip((g.name for g in genes), overlap_blocks(spans, flags.block)))
        written: list[str] = []
        with new_text(flags.output) as file:
            for gene, sequence in gene_sequences(genes, flags.genome, flags.part, flags.flank, notes.append):
                file.write(f">{gene.name} group={groups[gene.name]}\n{sequence}\n")
                written.append(gene.name)
            if not written:
                raise InputError(f"{flags.gtf}: every gene is on two chromosomes or strands")
        print(f"{flags.output}: {len(written)} genes in {len({groups[name] for name in written})} groups")
        if left_out:
            print(f"left out: {len(left_out)} genes on two chromosomes or strands, such as {', '.join(left_out[:3])}")
        for note in notes:
            print(note)


if __name__ == "__main__":
    main()
