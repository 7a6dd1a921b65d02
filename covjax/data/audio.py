"""Recordings: samples of WAV files from a folder or an archive, and files with one array per recording."""

import io
import tarfile
import wave
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from covjax.errors import InputError, shown
from covjax.jobs.disk import writing

SUFFIX = ".wav"


class Recording(NamedTuple):
    """A recording: its file's name without the suffix, samples in [-1, 1), and samples per second."""

    name: str
    samples: Float[np.ndarray, "n"]
    rate: int


def read_recordings(path: str | Path) -> Iterator[Recording]:
    """The WAV files of a folder (with its sub-folders, in the order of their names) or of a tar archive (in its own).

    A name is the path inside without `.wav`. Other files are passed over.

    Raises InputError for what is neither folder nor archive, a damaged archive, no WAV file, and as `parse_wav`.
    """
    path, count = Path(path), 0
    for name, content in _files(path):
        count += 1
        yield parse_wav(name, content, f"{path}: {shown(name + SUFFIX, 80)}")
    if not count:
        raise InputError(f"{path}: no file named *{SUFFIX} in it")


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        files = (file.relative_to(path) for file in path.rglob("*") if file.suffix.lower() == SUFFIX)
        for file in sorted(files):
            yield file.with_suffix("").as_posix(), (path / file).read_bytes()
        return
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder")
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and member.name.lower().endswith(SUFFIX):
                    stream = archive.extractfile(member)
                    assert stream is not None
                    yield member.name.removeprefix("./")[: -len(SUFFIX)], stream.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(
            f"{path}: cannot be read as a tar archive: {shown(str(error), 100)[1:-1]}; fetch it again, or give a folder"
        ) from None


def parse_wav(name: str, content: bytes, place: str) -> Recording:
    """A recording from the bytes of a WAV file of one channel and 8, 16, 24 or 32 bits; `place` names it in messages.

    Whole numbers become fractions of the largest: 16-bit samples are divided by 32,768.

    Raises InputError for a damaged or cut file, another encoding (floating point, compressed), several channels, and no
    sample.
    """
    try:
        with wave.open(io.BytesIO(content)) as file:
            rate, channels, width, count = (
                file.getframerate(),
                file.getnchannels(),
                file.getsampwidth(),
                file.getnframes(),
            )
            data = file.readframes(count)
    except (wave.Error, EOFError, RuntimeError) as error:
        raise InputError(
            f"{place}: not a WAV file of whole numbers: {error or 'it is cut'}; convert it to 16 bits"
        ) from None
    if channels != 1:
        raise InputError(f"{place}: {channels} channels; one is needed: mix them first")
    if not count or len(data) != count * width:
        raise InputError(f"{place}: {len(data)} bytes of sound, expected {count} samples of {width}; the file is cut")
    return Recording(name, _fractions(data, width), rate)


def _fractions(data: bytes, width: int) -> Float[np.ndarray, "n"]:
    """Little-endian samples of `width` bytes as float32 in [-1, 1); those of one byte have no sign."""
    octets = np.frombuffer(data, np.uint8).reshape(-1, width)
    if width == 1:
        return ((octets[:, 0].astype(np.float32)) - 128) / 128
    whole = np.zeros((len(octets), 4), np.uint8)
    whole[:, 4 - width :] = octets  # the sign is the highest bit of the last byte
    return (whole.view("<i4")[:, 0] / 2**31).astype(np.float32)


def write_arrays(path: str | Path, arrays: Iterable[tuple[str, np.ndarray]]) -> dict[str, int]:
    """Write named arrays to an `.npz` file, one at a time; returns the length of each by name.

    The same arrays give the same bytes. `covjax compare --activations` reads the file. Raises InputError for a name
    that occurs twice and a full disk.
    """
    lengths: dict[str, int] = {}
    with writing(path), zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays:
            if name in lengths:
                raise InputError(f"{path}: recording {shown(name, 80)} occurs twice; keep one")
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
            lengths[name] = len(array)
    return lengths
