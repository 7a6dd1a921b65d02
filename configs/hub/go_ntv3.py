"""Gene Ontology terms of whole genes from their DNA under the Nucleotide Transformer v3, 8M, pre-trained.

    python -m covjax.data.genes --gtf genes.gtf.gz --genome genome.fa.gz --part span --output genes.fasta.gz
    python -m covjax.data.ontology --obo go-basic.obo --gaf sgd.gaf.gz --match synonym --fasta genes.fasta.gz \
        --output genes_go.csv.gz
    python -m eval.compare --config configs/hub/go_ntv3.py --data genes_go.csv.gz

Groups are blocks of the chromosomes (1 Mb), so neighbours stand on one side; paralogues do not: give a `group` column
of gene families where they matter. The hub shows the model's licence before the download.
"""

from covjax.comparison.config import CompareConfig


def get_config() -> CompareConfig:
    """The last layer, one vector a nucleotide (256 features); genes of at most 32,768 nt."""
    return CompareConfig(
        name="GO terms by gene, NTv3 8M",
        encoder="InstaDeepAI/NTv3_8M_pre",
        composition_k=4,
        max_length=32_768,
        ranks=(16, 32, 64, 128),
        trained=(),  # they need all tokens in memory, 32 MiB a gene of the greatest length
        token_budget=32_768,
        output="runs/go_ntv3",
    )
