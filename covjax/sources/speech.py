"""Spoken digits: digits across speakers, and speakers across digits."""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from covjax.data.audio import read_recordings
from covjax.data.splits import SPLITS
from covjax.errors import InputError, shown
from covjax.log_mel import log_mel
from covjax.sources.draw import Row, Sizes, shared_file

# Each has a table with it as the test; an archive may hold others, which are then trained or validated on.
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "yweweler")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAME = re.compile(r"([0-9])_([a-z]+)_[0-9]+")
LATE_DIGITS = {"validation": ("six", "seven"), "test": ("eight", "nine")}


def digits(shared: Path, sizes: Sizes, speaker: str) -> list[Row]:
    """Recordings with their digits; all of `speaker` are the test, of the speaker before by name the validation.

    Every recording is a group of its own: intervals say how sure the value is for this one speaker. How much it varies
    between speakers is seen from the five tables.
    """
    recordings = _recordings(shared)
    names = sorted({other for *_, other in recordings})
    if speaker not in names:
        raise InputError(f"{_archive(shared)}: no recording of {speaker}, but of {', '.join(names)}")
    split_of = {speaker: "test", names[names.index(speaker) - 1]: "validation"}
    rows = [Row(name, "", digit, name, split_of.get(other, "train")) for name, digit, other in recordings]
    return _sample(rows, sizes)


def speakers(shared: Path, sizes: Sizes) -> list[Row]:
    """Recordings with their speakers; eight and nine are the test, six and seven the validation."""
    split_of = {digit: split for split, some in LATE_DIGITS.items() for digit in some}
    rows = [Row(name, "", speaker, name, split_of.get(digit, "train")) for name, digit, speaker in _recordings(shared)]
    return _sample(rows, sizes)


def log_mel_frames(shared: Path, names: Sequence[str]) -> Iterator[tuple[str, Float[np.ndarray, "frames bands"]]]:
    """Log-mel energies of the recordings with these names, float32, in the archive's order."""
    wanted = set(names)
    for name, samples, rate in read_recordings(_archive(shared)):
        if name in wanted:
            yield name, log_mel(samples, rate).astype(np.float32)


DIGIT_TABLES: dict[str, Callable[[Path, Sizes], list[Row]]] = {
    f"spoken_digits_{speaker}": functools.partial(digits, speaker=speaker) for speaker in SPEAKERS
}


def _archive(shared: Path) -> Path:
    return shared_file(shared, "audio", "spoken_digits.tar.gz")


def _recordings(shared: Path) -> list[tuple[str, str, str]]:
    """Name, digit and speaker of every recording, by name."""
    path, out = _archive(shared), []
    for name, *_ in read_recordings(path):
        match = NAME.fullmatch(name)
        if match is None:
            raise InputError(f"{path}: {shown(name, 60)}: not as published, DIGIT_SPEAKER_NUMBER.wav")
        out.append((name, DIGITS[int(match[1])], match[2]))
    return sorted(out)


def _sample(rows: Sequence[Row], sizes: Sizes) -> list[Row]:
    """At most so many rows of every split, drawn with seed 0, in their order; InputError where a split has none."""
    rng, chosen = np.random.default_rng(0), list[int]()
    for split, size in zip(SPLITS, sizes):
        own = [i for i, row in enumerate(rows) if row.split == split]
        if size < 1 or not own:
            raise InputError(f"sizes: {sizes} of {len(own)} recordings for {split}; at least one is needed")
        chosen += rng.permutation(own)[:size].tolist()
    return [rows[i] for i in sorted(chosen)]
