"""Genes as sequences, from a GTF file and a genome.

    python -m covjax.data.genes --gtf genes.gtf.gz --genome genome.fa.gz --part exons --output genes.fasta.gz

Writes FASTA with headers `name group=chrom:start-end`: `covjax.data.ontology` adds labels, `covjax extract` pools.
Both files are read once as streams; one chromosome is held at a time.
"""

import argparse
import dataclasses
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from covjax.cli import exit_on_input_error
from covjax.data.blocks import overlap_blocks
from covjax.data.fasta import stream_fasta
from covjax.data.nucleotides import reverse_complement
from covjax.data.text import text_lines
from covjax.data.write import new_text
from covjax.errors import InputError

COMMAND = "python -m covjax.data.genes"
PARTS = ("span", "exons")
_ATTRIBUTE = re.compile(r'(\w+) +(?:"([^"]*)"|([^";\s]+))')


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


def read_genes(path: str | Path, name: str = "gene_id", biotype: str = "") -> tuple[list[Gene], list[str]]:
    """Genes of a GTF file by its exon lines, in the order of the file; names of those in two places come second.

    `name` is the attribute that names a gene. `biotype` keeps the exons whose attribute gene_biotype or gene_type says
    so. A gene with exons on two chromosomes or strands has no one sequence: it is not returned, but named.

    Raises InputError naming the line for fewer than nine columns, bad coordinates, a strand other than + and -, and an
    exon whose attribute is missing or not one word; and for a file without any exon.
    """
    exons: defaultdict[str, defaultdict[tuple[str, str], list[tuple[int, int]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for number, line in text_lines(path):
        if line.startswith("#") or not line.strip():
            continue
        fields = line.rstrip("\r\n").split("\t")
        if len(fields) < 9:
            raise InputError(f"{path}: line {number}: {len(fields)} columns, fewer than the 9 of GTF")
        if fields[2] != "exon":
            continue
        attributes = _attributes(fields[8])
        if biotype and biotype not in (attributes.get("gene_biotype"), attributes.get("gene_type")):
            continue
        gene = attributes.get(name, "")
        if len(gene.split()) != 1:
            raise InputError(f"{path}: line {number}: an exon whose attribute {name!r} is {gene!r}, not one word")
        if not (fields[3].isdigit() and fields[4].isdigit() and 1 <= int(fields[3]) <= int(fields[4])):
            raise InputError(
                f"{path}: line {number}: start {fields[3]!r} and end {fields[4]!r} are not 1 <= start <= end"
            )
        if fields[6] not in ("+", "-"):
            raise InputError(f"{path}: line {number}: strand {fields[6]!r} is not + or -")
        exons[gene][fields[0], fields[6]].append((int(fields[3]) - 1, int(fields[4])))
    if not exons:
        raise InputError(f"{path}: no exon{f' of biotype {biotype!r}' if biotype else ''} in it")
    genes = [
        Gene(gene, *place, _united(intervals))
        for gene, places in exons.items()
        if len(places) == 1
        for place, intervals in places.items()
    ]
    return genes, [gene for gene, places in exons.items() if len(places) > 1]


def _attributes(text: str) -> dict[str, str]:
    """`gene_id "X"; gene_name "Y"; level 2;` as a dictionary; of a repeated key the first value."""
    found: dict[str, str] = {}
    for key, quoted, bare in _ATTRIBUTE.findall(text):
        found.setdefault(key, quoted or bare)
    return found


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
        raise InputError(f"gene {gene.name!r} ends at {end}, beyond {gene.chromosome!r} of {len(chromosome)} letters")
    pieces = [(start, end)] if part == "span" else list(gene.exons)
    pieces[0] = max(start - flank, 0), pieces[0][1]
    pieces[-1] = pieces[-1][0], end + flank  # a slice ends where the chromosome does
    sequence = "".join(chromosome[a:b] for a, b in pieces)
    return reverse_complement(sequence) if gene.strand == "-" else sequence


def gene_sequences(
    genes: Sequence[Gene], genome: str | Path, part: str = "span", flank: int = 0
) -> Iterator[tuple[Gene, str]]:
    """Yield every gene with its sequence, chromosome by chromosome as the genome has them.

    Raises InputError as `cut_gene` does and, at the end, where a gene's chromosome is not in the genome.
    """
    waiting: defaultdict[str, list[Gene]] = defaultdict(list)
    for gene in genes:
        waiting[gene.chromosome].append(gene)
    seen = []
    for _, header, chromosome in stream_fasta(genome):
        seen.append((header.split() or [""])[0])
        for gene in waiting.pop(seen[-1], []):
            yield gene, cut_gene(gene, chromosome, part, flank)
    if waiting:
        raise InputError(
            f"{genome}: no chromosome {sorted(waiting)[0]!r} as in the GTF; it has {', '.join(seen[:5])} …"
        )


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
    with exit_on_input_error(COMMAND):
        genes, left_out = read_genes(flags.gtf, flags.name, flags.biotype)
        spans = [(g.chromosome, max(g.span[0] - flags.flank, 0), g.span[1] + flags.flank) for g in genes]
        groups = dict(zip((g.name for g in genes), overlap_blocks(spans, flags.block)))
        with new_text(flags.output) as file:
            for gene, sequence in gene_sequences(genes, flags.genome, flags.part, flags.flank):
                file.write(f">{gene.name} group={groups[gene.name]}\n{sequence}\n")
        print(f"{flags.output}: {len(genes)} genes in {len(set(groups.values()))} groups")
        if left_out:
            print(f"left out: {len(left_out)} genes on two chromosomes or strands, such as {', '.join(left_out[:3])}")


if __name__ == "__main__":
    main()
