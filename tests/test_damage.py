"""Files of finished runs are deleted, cut, flipped, emptied and edited: the same command heals them or names them.

COVJAX_DAMAGES=100 python -m pytest tests/test_damage.py damages as many files of every command; the default is quicker.
"""

import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from covjax.autoencoders import load_autoencoder
from covjax.data.store import TokenStore, load_features, read_run
from covjax.jobs import checkpoint
from covjax.jobs.disk import read_sealed
from covjax.jobs.folder import checkpoint_path, saved_steps
from covjax.training.log import read_log
from tests.jobs_worker import KINDS, run, write_inputs

DAMAGES = int(os.environ.get("COVJAX_DAMAGES", "2"))


def _flip(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]


def _edit(content: bytes, rng: random.Random) -> bytes:
    """Another digit in a number, as a person would write it."""
    places = [found.start() for found in re.finditer(rb"\d", content)]
    place = rng.choice(places) if places else 0
    return content[:place] + bytes([ord("0") + (content[place] - ord("0") + 1) % 10]) + content[place + 1 :]


HOW = {
    "delete": None,
    "cut": lambda content, rng: content[: rng.randrange(len(content))],
    "flip": _flip,
    "empty": lambda content, rng: b"",
    "edit": _edit,
    "deep": lambda content, rng: b"[" * 100_000,
}


def _end_state(kind: str, folder: Path) -> dict:
    """Everything that a reader of the folder gets."""
    if kind == "extract":
        run = read_run(folder)
        tokens = [x.tobytes() for layer in (0, -1) for x in TokenStore(folder, layer).__getitems__(range(25))]
        return {"run": run, "tokens": tokens, **{n: load_features(folder, n).tobytes() for n in run["features"]}}
    if kind == "compare":
        page = (folder / "report.html").read_text()
        return {"results": read_sealed(folder / "results.json"), "page": page, "looks": (folder / LOOKS).read_text()}
    step = saved_steps(folder / "checkpoints")[-1]
    model = load_autoencoder(folder / "autoencoder")
    return {
        "state": checkpoint.read_manifest(checkpoint_path(folder / "checkpoints", step)),
        "held-out": (folder / "held-out.json").read_text(),
        "model": np.asarray(model.left[...]).tobytes(),
        "log": [{k: v for k, v in row.items() if k != "seconds"} for row in read_log(folder)],
    }


LOOKS = "test-looks.jsonl"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Of every command a finished run and what it ends in."""
    base = tmp_path_factory.mktemp("damage")
    write_inputs(base)
    states = {}
    for kind in KINDS:
        run(kind, base / kind)
        states[kind] = _end_state(kind, base / kind)
    return base, states


def _files_by_sort(folder: Path) -> list[list[Path]]:
    """Files of one sort have the same name but for numbers and hashes."""
    sorts: dict[str, list[Path]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = re.sub(r"[0-9a-f]{32}|\d+", "N", path.relative_to(folder).as_posix())
        sorts.setdefault(re.sub(r"^(features|probes)/[^/]+", r"\1/N", name), []).append(path)
    return list(sorts.values())


# Orbax's reader threads complain to no one when a file vanishes under them.
@pytest.mark.long
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_healed_or_named(finished, capfd, kind):
    base, states = finished
    rng, folder = random.Random(0), base / kind
    sound = base / "sound" / kind
    shutil.copytree(folder, sound)
    sorts = _files_by_sort(folder)
    victims = [(rng.choice(paths), how) for how in HOW for paths in sorts]
    # What a rerun believes first of all, in every way; of the rest a sample.
    first = [each for each in victims if each[0].suffix in (".json", ".jsonl") and each[0].parent == folder]
    rest = [each for each in victims if each not in first]
    chosen = rng.sample(first, min(DAMAGES, len(first))) + rng.sample(rest, min(2 * DAMAGES, len(rest)))
    healed = 0
    for victim, how in chosen:
        shutil.rmtree(folder)
        shutil.copytree(sound, folder)
        if (change := HOW[how]) is None:
            victim.unlink()
        else:
            victim.write_bytes(change(victim.read_bytes() or b"0", rng))
        what = f"{how} {victim.relative_to(folder)}"
        capfd.readouterr()
        status: object = 0
        try:
            run(kind, folder)
        except SystemExit as stop:
            status = stop.code
        error = capfd.readouterr().err
        assert "Traceback" not in error, f"{what}: {error}"
        if status:
            assert status == 2, what
            parts = victim.relative_to(folder).parts
            shown = {str(folder.joinpath(*parts[:end])) for end in range(1, len(parts) + 1)}
            assert any(path in error.splitlines()[-1] for path in shown), f"{what}: {error}"
            continue
        state, expected = _end_state(kind, folder), dict(states[kind])
        if victim.name == "log.jsonl" and "log.jsonl: " in error:  # rows of a log cannot be made again
            rows = expected.pop("log")
            assert all(row in rows for row in state.pop("log")), what
        if victim.name == LOOKS and how == "delete":
            del state["looks"], expected["looks"]
        assert state == expected, what
        healed += 1
    assert healed > len(chosen) // 3
