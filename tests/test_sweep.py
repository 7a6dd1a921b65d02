"""Sweeps: every member as if trained alone, one pass over the data, going on after a stop, the page."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import covjax.command
from covjax.autoencoder_command import read_labels
from covjax.autoencoders import load_autoencoder
from covjax.errors import InputError
from covjax.jobs import checkpoint
from covjax.jobs.cli import parse_lists
from covjax.jobs.folder import checkpoint_path, saved_steps
from covjax.sweeps import members, train_sweep
from covjax.sweeps import sweep as sweep_module
from covjax.sweeps.sweep import on_front
from covjax.training import state
from covjax.training.autoencoder import train_autoencoder
from covjax.training.log import read_log
from tests.toy_autoencoders import Unheld, activations, config

SWEEP = {"k": (2, 4), "latents": (16, 24)}


def sweep_config(output, **changes):
    settings = {"kind": "topk", "options": {"aux_k": 4}, "batch": 16, "held_out": 0.3, "sweep": SWEEP}
    return config(output, **settings | changes)


def end(folder):
    """Content of the last checkpoint: digests of every array, settings, place in the data, rows of the log."""
    return checkpoint.read_manifest(checkpoint_path(folder / "checkpoints", 12))


def labels():
    """Which of three subspaces a sequence is from."""
    return np.eye(3, dtype=bool)[np.arange(40) % 3]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return folder, train_sweep(sweep_config(folder), activations(), labels(), names=["one", "two", "three"])


@pytest.mark.long
def test_every_member_is_bit_for_bit_what_it_is_alone(swept, tmp_path):
    folder, results = swept
    made = members(sweep_config(folder))
    assert [each.name for each in made] == ["k-2_latents-16", "k-2_latents-24", "k-4_latents-16", "k-4_latents-24"]
    assert made[3].config.options == {"aux_k": 4, "k": 4, "latents": 24}
    for member in (made[1], made[2]):
        alone = tmp_path / member.name
        result = train_autoencoder(dataclasses.replace(member.config, output=str(alone)), activations())
        own = folder / "members" / member.name
        assert end(own) == end(alone)
        strip = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
        assert strip(read_log(own)) == strip(read_log(alone))
        assert load_autoencoder(own / "autoencoder").k == member.values["k"]
        row = next(row for row in results["members"] if row["name"] == member.name)
        assert row["held_out"] == result.held_out


class Stop(Exception):
    """What ends a sweep in its middle."""


TWO = {"k": (2, 4), "latents": (16,)}


@pytest.mark.long
@pytest.mark.parametrize("after", [5, 15])
def test_a_sweep_that_was_stopped_ends_in_the_same_bits(swept, tmp_path, monkeypatch, after):
    class Bar:
        count = 0

        def update(self, steps=1):
            self.count += 1
            if self.count > after:
                raise Stop

        __enter__ = lambda self: self
        __exit__ = lambda *_: None

    monkeypatch.setattr(sweep_module, "progress", lambda *_, **__: Bar())
    with pytest.raises(Stop):
        train_sweep(sweep_config(tmp_path, sweep=TWO), activations())
    monkeypatch.undo()
    names = [each.name for each in members(sweep_config(tmp_path, sweep=TWO))]
    assert {step for name in names for step in saved_steps(tmp_path / "members" / name / "checkpoints")} <= {4, 8, 12}
    again = train_sweep(sweep_config(tmp_path, sweep=TWO), activations())
    assert [end(tmp_path / "members" / n) for n in names] == [end(swept[0] / "members" / n) for n in names]
    before = {row["name"]: row["held_out"] for row in swept[1]["members"]}
    assert {row["name"]: row["held_out"] for row in again["members"]} == {name: before[name] for name in names}


@pytest.mark.long
def test_a_member_that_is_behind_catches_up_and_new_ones_join(swept, tmp_path):
    folder = shutil.copytree(swept[0], tmp_path / "run")
    shutil.rmtree(checkpoint_path(folder / "members" / "k-4_latents-16" / "checkpoints", 12))
    more = {"k": (4, 5), "latents": (16,)}
    results = train_sweep(sweep_config(folder, sweep=more), activations())
    assert end(folder / "members" / "k-4_latents-16") == end(swept[0] / "members" / "k-4_latents-16")
    assert [row["name"] for row in results["members"]] == ["k-4_latents-16", "k-5_latents-16"]
    with pytest.raises(InputError, match="holds another run: config.batch: 16 -> 8"):
        train_sweep(sweep_config(folder, batch=8), activations())


@pytest.mark.long
def test_one_pass_serves_all_members_unless_memory_is_too_small(tmp_path, monkeypatch):
    def trained(name, **changes):
        data = Unheld(activations())
        rows: list[int] = []
        data.read = lambda some: [rows.extend(some), activations().read(some)][1]
        monkeypatch.setattr(sweep_module, "_measure", lambda *_: {"members": [], "config": {}, "reference": {}})
        monkeypatch.setattr(sweep_module, "write_page", lambda *_: None)
        settings = {"max_memory_gib": 0.0, "mix_tokens": 200, "evaluate_every": 12, "init_batches": 1} | changes
        train_sweep(sweep_config(tmp_path / name, **settings), data)
        return rows

    held = 12  # sequences that are held out, which every member reads for itself
    one = trained("one", sweep={"k": (2,)})
    two = trained("two", sweep=TWO)
    assert len(two) - len(one) <= held + 16  # their own first batch and the held-out sequences; of training nothing
    monkeypatch.setattr(sweep_module, "share_memory", lambda _: [[0], [1]])
    assert len(trained("small", sweep=TWO)) >= len(two) + 4  # of training too: one sequence of every lane, or more


def test_states_share_memory_in_order(monkeypatch):
    monkeypatch.setattr(state, "_free_memory", lambda: 10)
    assert state.share_memory([4, 4, 4, 20, 1]) == [[0, 1], [2], [3], [4]]
    monkeypatch.setattr(state, "_free_memory", lambda: None)
    assert state.share_memory([4, 4, 20]) == [[0, 1, 2]]


@pytest.mark.long
def test_seeds_say_how_stable_the_latents_are(tmp_path):
    data = activations(count=40)
    results = train_sweep(sweep_config(tmp_path, sweep={"seed": (0, 1)}), data)
    for row in results["members"]:
        stable = row["stability"]
        assert stable["others"] == 1
        assert 0 < stable["by_chance"] < 1
        assert 0 < stable["mean_max_cosine"] <= 1


def test_page_and_numbers_say_the_same(swept):
    folder, results = swept
    assert json.loads((folder / "sweep.json").read_text()) == results
    text = (folder / "sweep.html").read_text()
    assert not any(part in text for part in ("<script", "src='http", 'href="http'))
    for row in results["members"]:
        assert f"{row['held_out']['fvu']:.3f}" in text
        assert f"{row['covariance_fvu']:.3f}" in text
        assert f"{row['sparse_probe']['1']:.3f}" in text
        assert set(row["best_latents"]) <= {"one", "two", "three"}
        counts = {"held_out_sequences": 12, "training_sequences": 28, "labels": len(row["best_latents"])}
        assert row["measured"] == counts
        assert counts["labels"] > 0
    assert (folder / "pareto.png").stat().st_size > 1000


def test_the_front_holds_what_nothing_beats():
    rows = [{"held_out": dict(zip(("l0", "fvu"), point))} for point in ((2, 0.5), (4, 0.3), (5, 0.3), (1, 0.9))]
    rows.append({"held_out": {"fvu": 0.1}})
    assert [on_front(row, rows) for row in rows] == [True, True, False, True, None]


def test_lists_of_values():
    assert parse_lists("k=16,32:prefixes=[8,32],[16,32]:kind=topk,relu") == {
        "k": (16, 32),
        "prefixes": ([8, 32], [16, 32]),
        "kind": ("topk", "relu"),
    }
    for bad in ("k", "k=", "k=1:k=2"):
        with pytest.raises(InputError):
            parse_lists(bad)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sweep": {"depth": (1,)}}, "sweep: 'depth' is not an option of topk; allowed: kind, learning_rate"),
        ({"sweep": {"steps": (1,)}}, "sweep: 'steps' is not an option of topk"),
        ({"sweep": {"k": ()}}, "sweep: k is .*expected a tuple of one or more values"),
        ({"sweep": {"k": (2, 2)}}, "sweep: k-2 is given twice"),
        ({"sweep": {"k": (2, 40), "latents": (16,)}}, "sweep: k-40_latents-16: k must be a whole number from 1 to"),
        ({"wandb": "x"}, "wandb: 'x': a sweep does not write to wandb"),
    ],
)
def test_bad_sweeps_are_refused_before_anything_is_trained(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train_sweep(sweep_config(tmp_path, **changes), activations())
    assert not (tmp_path / "members").exists()


def test_labels_are_checked_and_a_sweep_is_no_single_training(tmp_path):
    with pytest.raises(InputError, match=r"labels: bool\[39, 3\], expected 40 rows"):
        train_sweep(sweep_config(tmp_path), activations(), labels()[1:])
    with pytest.raises(InputError, match="one autoencoder is trained here; several by train_sweep"):
        train_autoencoder(sweep_config(tmp_path), activations())


def test_labels_are_matched_by_id(tmp_path):
    (tmp_path / "s.fasta").write_text(">b\nMKV\n>a\nGGA\n>c\nMKA\n")
    table = tmp_path / "t.csv"
    table.write_text("id,label\n" + "".join(f"{name},{x}\n" for name, x in zip("abcd", "AGAG")))
    found, names = read_labels(config(tmp_path, store="", data=str(tmp_path / "s.fasta"), labels=str(table)))
    assert sorted(names) == ["A", "G"]
    np.testing.assert_array_equal(found[:, names.index("G")], [True, False, False])
    np.testing.assert_array_equal(found.sum(1), 1)
    (tmp_path / "s.fasta").write_text(">z\nMKV\n>a\nGGA\n")
    with pytest.raises(InputError, match="lacks 1 of the 2 sequences of .*s.fasta, first 'z'"):
        read_labels(config(tmp_path, store="", data=str(tmp_path / "s.fasta"), labels=str(table)))
    table.write_text("id,label\nz,A\na,\nb,G\n")  # without a label it is not in the table
    with pytest.raises(InputError, match="lacks 1 of the 2 sequences of .*s.fasta, first 'a'"):
        read_labels(config(tmp_path, store="", data=str(tmp_path / "s.fasta"), labels=str(table)))


def test_the_command_sweeps_and_refuses_labels_without_a_sweep(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(
        sweep_module, "train_sweep", lambda config, **more: asked.append(config.sweep) or {"members": []}
    )
    arguments = ["--store", "x", "--kind", "topk", "--sweep", "k=2,4", "--sweep", "latents=16"]
    assert covjax.command.main(["train", "autoencoder", *arguments]) == 0
    assert asked == [{"k": (2, 4), "latents": (16,)}]
    for more, message in (
        (["--sweep", "k=1"], "k is given twice"),
        (["--sweep", "k"], "expected option=value,value, got 'k'"),
    ):
        with pytest.raises(SystemExit):
            covjax.command.main(["train", *arguments, *more])
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        covjax.command.main(["train", "--store", "x", "--labels", "t.csv"])
    assert "is for the page of a sweep; add --sweep" in capsys.readouterr().err
