"""Recordings: samples by hand in every width, folders and archives, damage, and arrays that compare reads."""

import io
import re
import tarfile
import wave

import numpy as np
import pytest

from covjax.activations import read_activations
from covjax.data.audio import parse_wav, read_recordings, write_arrays
from covjax.errors import InputError
from tests.conftest import ROOT


def wav(data, width=2, rate=8000, channels=1):
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)
    return stream.getvalue()


def archive(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("width", "data", "expected"),
    [
        (1, bytes([0, 128, 255]), [-1, 0, 127 / 128]),
        (2, np.array([-32768, 0, 32767], "<i2").tobytes(), [-1, 0, 32767 / 32768]),
        (3, bytes([0, 0, 0x80, 0, 0, 0, 0, 0, 0x40]), [-1, 0, 0.5]),
        (4, np.array([-(2**31), 0, 2**30], "<i4").tobytes(), [-1, 0, 0.5]),
    ],
)
def test_samples_are_fractions(width, data, expected):
    recording = parse_wav("a", wav(data, width, 16000), "a.wav")
    np.testing.assert_array_equal(recording.samples, np.array(expected, np.float32))
    assert (recording.name, recording.rate) == ("a", 16000)


def test_folders_and_archives_hold_the_same(tmp_path):
    files = {"b.wav": wav(b"\x01\x00" * 5), "sub/a.WAV": wav(b"\x02\x00" * 3), "README.txt": b"words"}
    for name, content in files.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    expected = {"b": 5, "sub/a": 3}
    assert {r.name: len(r.samples) for r in read_recordings(tmp_path / "folder")} == expected
    assert {r.name: len(r.samples) for r in read_recordings(archive(tmp_path / "a.tar.gz", files))} == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"RIFF", "x.wav: not a WAV file of whole numbers"),
        (wav(b"\0\0" * 8, channels=2), "x.wav: 2 channels; one is needed"),
        (wav(b""), "x.wav: 0 bytes of sound"),
        (wav(b"\0\0" * 8)[:-6], "x.wav: 10 bytes of sound, expected 8 samples of 2"),
    ],
)
def test_a_bad_file_is_one_line(content, message):
    with pytest.raises(InputError, match=message):
        parse_wav("x", content, "x.wav")


def test_a_bad_archive_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        list(read_recordings(tmp_path / "no.tar.gz"))
    (tmp_path / "text.tar.gz").write_bytes(b"words")
    with pytest.raises(InputError, match=r"text.tar.gz: cannot be read as a tar archive"):
        list(read_recordings(tmp_path / "text.tar.gz"))
    whole = archive(tmp_path / "cut.tar.gz", {"a.wav": wav(np.random.default_rng(0).bytes(20000))})
    whole.write_bytes(whole.read_bytes()[:9000])
    with pytest.raises(InputError, match=r"cut.tar.gz: cannot be read as a tar archive"):
        list(read_recordings(whole))
    with pytest.raises(InputError, match=r"no file named \*.wav in it"):
        list(read_recordings(archive(tmp_path / "none.tar.gz", {"a.txt": b"words"})))


def test_the_example_of_the_page_writes_log_mel_energies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recordings").mkdir()
    for name, count in (("a", 400), ("b", 1000)):
        (tmp_path / "recordings" / f"{name}.wav").write_bytes(wav(b"\x01\x02" * count))
    example = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "domains.md").read_text(), re.S)
    exec(example[1], {})
    given = read_activations("frames.npz")
    assert (given.ids, given.lengths.tolist(), given.features) == (("a", "b"), [3, 11], 40)


def test_arrays_are_read_as_activations(tmp_path, rng):
    arrays = {"a": rng.normal(size=(5, 3)).astype(np.float32), "sub/b": rng.normal(size=(2, 3)).astype(np.float32)}
    assert write_arrays(tmp_path / "x.npz", arrays.items()) == {"a": 5, "sub/b": 2}
    write_arrays(tmp_path / "y.npz", arrays.items())
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()
    given = read_activations(tmp_path / "x.npz")
    for row, name in enumerate(given.ids):
        np.testing.assert_array_equal(given.read([row])[0], arrays[name])
    assert sorted(given.ids) == sorted(arrays)
    with pytest.raises(InputError, match="recording 'a' occurs twice"):
        write_arrays(tmp_path / "z.npz", [*arrays.items(), ("a", arrays["a"])])
