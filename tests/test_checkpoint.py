import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from covjax.errors import InputError
from covjax.jobs import checkpoint

TREE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": {"flag": np.array([True, False]), "n": np.int32(4)}}
MANIFEST = {"layer": 4, "encoder": {"name": "unirep-64", "digest": "abc"}}


def test_round_trip_is_exact_and_keeps_dtypes(tmp_path):
    checkpoint.save(tmp_path / "c", TREE, MANIFEST)
    back = checkpoint.load(tmp_path / "c", TREE, MANIFEST)
    np.testing.assert_array_equal(back["a"], TREE["a"])
    assert back["a"].dtype == np.float32
    assert back["b"]["flag"].tolist() == [True, False]
    assert back["b"]["n"] == 4


def test_replaces_an_older_checkpoint(tmp_path):
    checkpoint.save(tmp_path / "c", TREE, MANIFEST)
    checkpoint.save(tmp_path / "c", {"a": np.zeros(2)}, MANIFEST)
    assert checkpoint.load(tmp_path / "c", {"a": 0})["a"].shape == (2,)


def test_other_settings_are_refused_with_the_difference(tmp_path):
    checkpoint.save(tmp_path / "c", TREE, MANIFEST)
    with pytest.raises(InputError, match=r"encoder\.digest: 'abc' -> 'xyz'"):
        checkpoint.load(tmp_path / "c", TREE, {"encoder": {"name": "unirep-64", "digest": "xyz"}})


def test_missing_and_unfinished_are_not_there(tmp_path):
    assert checkpoint.read_manifest(tmp_path / "none") is None
    (tmp_path / "half").mkdir()
    assert checkpoint.read_manifest(tmp_path / "half") is None
    with pytest.raises(InputError, match="no complete checkpoint"):
        checkpoint.load(tmp_path / "half", TREE)


def test_leaf_missing_or_extra_is_named(tmp_path):
    checkpoint.save(tmp_path / "c", TREE, MANIFEST)
    with pytest.raises(InputError, match=r"\['z'\] is missing"):
        checkpoint.load(tmp_path / "c", TREE | {"z": 0})
    with pytest.raises(InputError, match=r"\['a'\] is unexpected"):
        checkpoint.load(tmp_path / "c", {"b": TREE["b"]})


# Orbax's reader threads complain to no one when a file vanishes under them.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_damage_to_any_array_file_is_refused(tmp_path, damage):
    """Damage each file that holds array data in turn: the load must refuse, or (index files) still be exact."""
    tree = {"a": np.random.default_rng(0).normal(size=(64, 64))}
    checkpoint.save(tmp_path / "sound", tree, MANIFEST)
    refused = []
    for number, file in enumerate(p for p in (tmp_path / "sound").rglob("*") if p.stat().st_size and p.is_file()):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(tmp_path / "sound", copy)
        victim = copy / file.relative_to(tmp_path / "sound")
        raw = bytearray(victim.read_bytes())
        raw[len(raw) // 2] ^= 0x10
        victim.write_bytes({"flip": raw, "cut": raw[: len(raw) // 3], "delete": b""}[damage])
        if damage == "delete":
            victim.unlink()
        try:
            back = checkpoint.load(copy, tree, MANIFEST)
        except InputError:
            refused.append(file.stat().st_size)
        else:
            np.testing.assert_array_equal(back["a"], tree["a"])
    assert max(refused) > 10_000  # the file with the 32 KiB of numbers is among them


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_damage_to_the_manifest_is_refused(tmp_path, damage):
    checkpoint.save(tmp_path / "c", TREE, MANIFEST | {"μ": [1.5, None, True]})
    assert checkpoint.read_manifest(tmp_path / "c")["μ"] == [1.5, None, True]
    file = tmp_path / "c" / "manifest" / "data.json"
    text = file.read_text()
    if damage == "delete":
        file.unlink()
    else:
        file.write_text(text.replace("1.5", "1.25") if damage == "flip" else text[:-9])
    with pytest.raises(checkpoint.Damaged, match="manifest"):
        checkpoint.load(tmp_path / "c", TREE)


def test_a_manifest_that_orbax_stored_as_a_tree_is_read(tmp_path, monkeypatch):
    # Checkpoints of covjax 0.2.0 and earlier hold theirs so.
    monkeypatch.setattr(ocp.handlers, "JsonHandler", ocp.handlers.PyTreeHandler)
    checkpoint.save(tmp_path / "c", TREE, MANIFEST)
    assert not (tmp_path / "c" / "manifest" / "data.json").exists()
    np.testing.assert_array_equal(checkpoint.load(tmp_path / "c", TREE, MANIFEST)["a"], TREE["a"])


def test_digests_of_another_version_are_not_called_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "DIGEST_FORMAT", None)
    checkpoint.save(tmp_path / "c", TREE, MANIFEST)
    monkeypatch.undo()
    with pytest.raises(InputError, match="digests of format None, written by another version of covjax"):
        checkpoint.load(tmp_path / "c", TREE)


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        checkpoint.save(tmp_path / "file" / "c", TREE, MANIFEST)


def test_digest_covers_dtype_shape_and_bytes():
    a = np.zeros((2, 3), np.float32)
    digests = {checkpoint.leaf_digests({"x": x})["['x']"] for x in (a, a.T, a.astype(np.int32), a + 1)}
    assert len(digests) == 4


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder in which no user can make another")
def test_a_folder_that_cannot_be_made_fails_without_waiting_threads():
    before = threading.active_count()
    with pytest.raises(InputError, match="/proc/x: cannot be written"):
        checkpoint.save("/proc/x", {"a": np.zeros(1)}, {"b": 1})
    assert threading.active_count() == before


def test_threads_read_while_another_writes(tmp_path):
    """Orbax's operations wait for each other's signals: started from two threads at once, they have failed."""
    tree = {"a": np.arange(6.0)}
    checkpoint.save(tmp_path / "first", tree, {})
    with ThreadPoolExecutor(2) as threads:
        reads = [threads.submit(checkpoint.load, tmp_path / "first", {"a": 0}) for _ in range(8)]
        for number in range(8):
            checkpoint.save(tmp_path / str(number), tree, {"number": number})
    for read in reads:
        np.testing.assert_array_equal(read.result()["a"], tree["a"])
    for number in range(8):
        assert checkpoint.read_manifest(tmp_path / str(number))["number"] == number
