"""A run's folder: one process at a time, one run for ever, --force that removes its own files and no other."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from covjax.activations.files import open_arrays
from covjax.data import read_table
from covjax.data.sequences import read_sequences
from covjax.embedding_command import writable
from covjax.errors import InputError
from covjax.jobs import checkpoint
from covjax.jobs import folder as module
from covjax.jobs.disk import (
    Damaged,
    cell_text,
    full_disk,
    new_text,
    read_line,
    read_sealed,
    sealed,
    sealed_line,
    text_cell,
    writing,
)
from covjax.jobs.folder import LOCK, RUN, claim
from tests.conftest import ROOT

OWNS = ("a.json", "parts/*/", "figures/one.png")


def enter(path, identity, owns=OWNS, **options):
    with claim(path, "cmd", owns) as run:
        run.begin(identity, **options)
        (path / "a.json").write_text("{}")


def files(path):
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*"))


def test_a_second_run_is_refused_while_the_first_is_at_work(tmp_path):
    with claim(tmp_path, "cmd", OWNS) as first:
        first.begin({"x": 1})
        before = files(tmp_path)
        with pytest.raises(InputError, match=rf"output: {tmp_path}: another run .*process {os.getpid()} on .*--output"):
            enter(tmp_path, {"x": 1})
        assert files(tmp_path) == before
    enter(tmp_path, {"x": 1})
    assert not (tmp_path / LOCK).exists()


def test_a_killed_process_leaves_no_lock(tmp_path):
    script = "import sys, time; from covjax.jobs.folder import claim\n"
    script += "with claim(sys.argv[1], 'cmd'): print('in', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"in\n"
        with pytest.raises(InputError, match=f"process {process.pid} on"):
            enter(tmp_path, {})
        process.kill()
    assert (tmp_path / LOCK).is_file()
    enter(tmp_path, {})


def test_another_run_in_the_folder_is_refused_before_anything_is_written(tmp_path):
    enter(tmp_path, {"x": 1, "same": 2})
    before = {p: (tmp_path / p).read_bytes() for p in files(tmp_path)}
    with pytest.raises(InputError, match=r"holds another run: x: 1 -> 3; use --output OTHER or --force"):
        enter(tmp_path, {"x": 3, "same": 2})
    with pytest.raises(InputError, match="holds a run of cmd; use --output OTHER"), claim(tmp_path, "other") as run:
        run.begin({"x": 1, "same": 2}, force=True)
    assert before == {p: (tmp_path / p).read_bytes() for p in files(tmp_path)}
    enter(tmp_path, {"x": 1, "same": 2})


def test_a_run_that_made_nothing_leaves_the_folder_to_another(tmp_path):
    with claim(tmp_path, "cmd", OWNS) as run:
        run.begin({"x": 1})
    (tmp_path / "mine.txt").write_text("mine")
    enter(tmp_path, {"x": 2})
    assert read_sealed(tmp_path / RUN)["identity"] == {"x": 2}
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_entries_that_may_grow_are_compared_where_both_have_them(tmp_path):
    enter(tmp_path, {"rows": {"a": 1}}, grows="rows")
    enter(tmp_path, {"rows": {"b": 2}}, grows="rows")
    with pytest.raises(InputError, match="rows.a: 1 -> 2"):
        enter(tmp_path, {"rows": {"a": 2}}, grows="rows")
    assert read_sealed(tmp_path / RUN)["identity"] == {"rows": {"a": 1, "b": 2}}


def test_force_removes_what_the_run_made_and_nothing_else(tmp_path):
    enter(tmp_path, {"x": 1})
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "one.png").touch()
    (tmp_path / "parts" / "0").mkdir(parents=True)
    (tmp_path / "parts" / "0" / "_CHECKPOINT_METADATA").touch()
    (tmp_path / "parts" / "1.covjax-tmp").mkdir()
    foreign = ("mine.txt", "figures/mine.png", "parts/notes.txt", "parts/mine/thesis.tex")
    for name in foreign:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / "elsewhere").write_text("not followed")
    (tmp_path / "parts" / "link").symlink_to(tmp_path / "elsewhere")
    enter(tmp_path, {"x": 2}, force=True)
    left = ["a.json", RUN, "elsewhere", "figures", "figures/mine.png", "mine.txt"]
    assert files(tmp_path) == sorted(
        [*left, "parts", "parts/mine", "parts/link", "parts/mine/thesis.tex", "parts/notes.txt"]
    )


def test_force_needs_a_folder_that_is_a_runs(tmp_path):
    (tmp_path / "a.json").write_text("mine")
    with pytest.raises(InputError, match=f"has no sound {RUN}, so --force does not know"):
        enter(tmp_path, {"x": 1}, force=True)
    assert (tmp_path / "a.json").read_text() == "mine"
    assert files(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("name", "given"), [("data", "a.json"), ("data", "parts/x/y.csv"), ("store", "."), ("store", "in"), ("store", "..")]
)
def test_an_input_is_never_among_what_the_run_writes(tmp_path, name, given):
    output = tmp_path / "out"
    enter(output, {"x": 1})
    before = files(output)
    with pytest.raises(InputError, match=f"{name}: .*use --output OTHER"):
        enter(output, {"x": 2}, force=True, inputs={name: output / given})
    assert files(output) == before


def remove_and_make(output):
    for path in output.iterdir():
        path.unlink()
    output.rmdir()
    output.mkdir()


def fail_without_lock(output):
    (output / LOCK).unlink()
    raise FileNotFoundError(output)


@pytest.mark.parametrize("happen", [remove_and_make, fail_without_lock])
def test_a_folder_removed_meanwhile_is_no_success(tmp_path, happen):
    def work(output):
        with claim(output, "cmd") as run:
            run.begin({"x": 1})
            happen(output)

    with pytest.raises(InputError, match="was removed or replaced while the command ran"):
        work(tmp_path / "out")


def test_a_failed_run_that_wrote_nothing_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="bad data"), claim(tmp_path / "new", "cmd"):
        raise ValueError("bad data")
    assert files(tmp_path) == []


def fail(path):
    with claim(path, "cmd", OWNS) as run:
        run.begin({"x": 2})
        raise ValueError("checkpoints of another run")


def test_a_lost_identity_is_written_anew_only_by_a_run_that_succeeds(tmp_path, capsys):
    enter(tmp_path, {"x": 1})
    (tmp_path / "parts" / "0").mkdir(parents=True)
    (tmp_path / "parts" / "0" / "_CHECKPOINT_METADATA").touch()
    (tmp_path / RUN).write_text("{}")
    with pytest.raises(ValueError, match="checkpoints of another run"):
        fail(tmp_path)
    assert f"{RUN}: changed or damaged; it is written again" in capsys.readouterr().err
    enter(tmp_path, {"x": 1})
    assert read_sealed(tmp_path / RUN)["identity"] == {"x": 1}


@pytest.mark.parametrize("name", ["a.json", "figures/one.png", "parts/mine/thesis.tex"])
def test_files_of_a_runs_names_in_a_folder_that_no_run_made_are_not_written_over(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = files(tmp_path)
    with pytest.raises(InputError, match=f"output: .* has '.*' and no {RUN}, so it may not be a run's; remove it your"):
        enter(tmp_path, {"x": 1})
    assert (tmp_path / name).read_text() == "mine"
    assert files(tmp_path) == before


def test_a_run_whose_identity_was_removed_goes_on_where_a_seal_says_that_it_is_one(tmp_path):
    enter(tmp_path, {"x": 1})
    (tmp_path / "a.json").write_text(sealed({"y": 2}))
    (tmp_path / RUN).unlink()
    enter(tmp_path, {"x": 1})
    assert read_sealed(tmp_path / RUN)["identity"] == {"x": 1}


def test_a_checkpoint_replaces_no_folder_of_others_and_old_steps_go_alone(tmp_path):
    tree = {"x": np.zeros(2)}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "data.csv").write_text("mine")
    with pytest.raises(InputError, match="a folder with other files is there .'data.csv'., which a checkpoint would"):
        checkpoint.save(tmp_path / "model", tree, {})
    assert files(tmp_path / "model") == ["data.csv"]
    (tmp_path / "model" / "data.csv").rename(tmp_path / "model" / "_CHECKPOINT_METADATA")  # of another program
    with pytest.raises(InputError, match="a folder with other files is there"):
        checkpoint.save(tmp_path / "model", tree, {})
    (tmp_path / "empty").mkdir()
    for name in ("empty", "empty", "new"):  # one that is there is replaced
        checkpoint.save(tmp_path / name, tree, {})
    steps = tmp_path / "steps"
    for step in range(2):
        module.save_step(steps, step, tree, {})
    (steps / "00000000").rename(steps / "best-so-far")
    (steps / "00000009.covjax-tmp").mkdir()
    for step in range(2, 5):
        module.save_step(steps, step, tree, {})
    assert sorted(path.name for path in steps.iterdir()) == ["00000003", "00000004", "best-so-far"]


def test_what_a_killed_run_left_unfinished_in_a_folder_of_its_own_is_removed(tmp_path):
    owns = ("a.json", "layers/*/features/*/", "layers/*/")
    enter(tmp_path, {"x": 1}, owns)
    for name in ("layers/3/covjax-tmp-factors", "layers/3/features/mean.covjax-tmp", "layers/3/mine"):
        (tmp_path / name).mkdir(parents=True)
    enter(tmp_path, {"x": 1}, owns)
    assert files(tmp_path / "layers") == ["3", "3/features", "3/mine"]


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    enter(tmp_path, {})
    assert "no locks on this file system" in capsys.readouterr().out


def test_any_change_of_a_sealed_file_is_seen(tmp_path):
    path, value = tmp_path / "x.json", {"a": [1.5, "β\ud800"], "b": {"c": None}}
    path.write_text(sealed(value))
    assert read_sealed(path) == value
    assert json.loads(path.read_text())["a"] == value["a"]
    content = path.read_bytes()
    for place in range(len(content)):
        for damaged in (content[:place], content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]):
            path.write_bytes(damaged)
            with pytest.raises(Damaged, match=r"x.json: changed or damaged"):
                read_sealed(path)
    for text in ("[" * 100_000, '{"seal": "0"}', content.decode() + " "):
        path.write_text(text)
        with pytest.raises(Damaged):
            read_sealed(path)
    with path.open("wb") as file:  # of which nothing must be read into memory
        file.truncate(1 << 40)
    with pytest.raises(Damaged):
        read_sealed(path)


def test_lines_have_seals_of_their_own():
    line = sealed_line({"step": 3, "loss": 0.5})
    assert json.loads(line)["loss"] == 0.5
    assert read_line(line) == {"step": 3, "loss": 0.5}
    assert read_line(line[:-1]) is read_line(line.replace("0.5", "0.4")) is read_line("") is None


@pytest.mark.parametrize("value", ["=1+1", "+A", "-ACGT", "@x", "\tx", "\rx", "'=x", "''-x", "'x", "plain", "", "-1+1"])
def test_a_spreadsheet_runs_no_cell_and_our_readers_get_it_back(tmp_path, value):
    cell = text_cell(value)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert cell_text(cell) == value
    assert text_cell("-0.5;1e-3") == "-0.5;1e-3"


def test_tables_with_such_cells_are_read(tmp_path):
    rows = [("=a", "-a word", "+x"), ("'=b", "two words", "@y")]
    with new_text(tmp_path / "t.csv") as file:
        file.write("id,sequence,label\n")
        file.writelines(",".join(map(text_cell, row)) + "\n" for row in rows)
    data = read_table(tmp_path / "t.csv")
    assert data.ids == ("=a", "'=b")
    assert data.sequences == ("-a word", "two words")
    assert data.target_names == ("+x", "@y")
    assert read_sequences(tmp_path / "t.csv") == (("=a", "'=b"), ("-a word", "two words"))


def test_a_full_disk_is_found_behind_other_errors(tmp_path):
    error = ValueError("Error writing: RESOURCE_EXHAUSTED: No space left on device")
    assert full_disk(error) == "No space left on device"
    assert full_disk(OSError(errno.EDQUOT, "quota")) == os.strerror(errno.EDQUOT)
    assert full_disk(ValueError("shape")) is None
    room = r"x: cannot be written: .*; about 5,000 bytes are needed, [0-9,]+ are free; make room"
    with pytest.raises(InputError, match=room), writing(tmp_path / "x", 5000):
        raise RuntimeError("save failed") from ExceptionGroup("all", [error])
    with pytest.raises(ValueError, match="shape"), writing(tmp_path / "x"):
        raise ValueError("shape")


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket/run", "file:///tmp/run"])
def test_an_address_is_no_folder(tmp_path, monkeypatch, address):
    """As a path it would be a folder called `gs:`."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is an address"), claim(address, "test"):
        pass
    with pytest.raises(InputError, match="is an address"):
        checkpoint.save(address, {}, {})
    with pytest.raises(InputError, match="is an address"):
        writable(f"{address}/vectors.npz", (".npz",), force=False)
    for read in (read_table, read_sequences, open_arrays, checkpoint.read_manifest):
        with pytest.raises(InputError, match="is an address"):
            read(address)
    assert not any(tmp_path.iterdir())
