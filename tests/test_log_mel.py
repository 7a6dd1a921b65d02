"""Log-mel energies: the scale and filters by their public definition, spectra by SciPy, and what is refused."""

import numpy as np
import pytest
from scipy import signal
from scipy.integrate import trapezoid

from covjax.errors import InputError
from covjax.log_mel import FLOOR, hz_to_mel, log_mel, mel_energies, mel_filters, mel_to_hz


def test_the_scale_is_that_of_the_auditory_toolbox():
    """Values of librosa's documentation: hz_to_mel of 60, 110, 220, 440 and 11,025 Hz, mel_to_hz of 1 to 5."""
    np.testing.assert_allclose(hz_to_mel(np.array([60.0, 110, 220, 440])), [0.9, 1.65, 3.3, 6.6], rtol=1e-12)
    np.testing.assert_allclose(hz_to_mel(11025.0), 49.91059448015905, rtol=1e-12)
    np.testing.assert_allclose(
        mel_to_hz(np.arange(1.0, 6)), [66.66666667, 133.33333333, 200, 266.66666667, 333.33333333]
    )
    hz = np.linspace(0, 8000, 777)
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(hz)), hz, atol=1e-9)
    assert hz_to_mel(6400.0) - hz_to_mel(1000.0) == pytest.approx(27)


@pytest.mark.parametrize(("rate", "size", "bands"), [(8000, 256, 40), (16000, 400, 40), (16000, 512, 23)])
def test_filters_are_triangles_of_area_one(rate, size, bands):
    filters = mel_filters(rate, size, bands)
    corners = mel_to_hz(np.linspace(0, hz_to_mel(rate / 2), bands + 2))
    bins = np.arange(size // 2 + 1) * rate / size
    for i in range(bands):  # each by linear interpolation between its three corners
        low, peak, high = corners[i : i + 3]
        expected = np.interp(bins, [low, peak, high], [0, 2 / (high - low), 0])
        np.testing.assert_allclose(filters[i], expected, atol=1e-15)
        fine = np.linspace(low, high, 1001)
        assert trapezoid(np.interp(fine, [low, peak, high], [0, 2 / (high - low), 0]), fine) == pytest.approx(
            1, rel=1e-5
        )


def test_energies_are_scipys_spectra_under_the_filters(rng):
    samples = rng.normal(0, 0.1, 3050)
    ours = mel_energies(samples, 8000, 200, 100, 256)
    hann = signal.get_window("hann", 200, fftbins=True)
    transform = signal.ShortTimeFFT(hann, 100, 8000, fft_mode="onesided", mfft=256)
    # SciPy's slice p has its middle at sample 100 p, our frame i its start at 100 i.
    power = np.abs(transform.stft(samples, p0=1, p1=30)) ** 2
    assert ours.shape == (29, 40)
    np.testing.assert_allclose(ours, (mel_filters(8000, 256) @ power).T, rtol=1e-10)


def test_a_tone_is_in_its_band():
    rate, seconds = 16000, 0.3
    for hz in (440.0, 1000.0, 3000.0):
        bands = log_mel(0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate), rate)
        assert bands.shape == (28, 40)
        peaks = mel_to_hz(np.linspace(0, hz_to_mel(rate / 2), 42)[1:-1])
        assert abs(int(bands.mean(0).argmax()) - int(np.abs(peaks - hz).argmin())) <= 1


def test_silence_is_the_floor_and_gain_is_a_shift():
    np.testing.assert_allclose(log_mel(np.zeros(200), 8000), np.full((1, 40), np.log(FLOOR)))
    loud = np.random.default_rng(1).uniform(-1, 1, 2000)
    change = np.exp(log_mel(loud, 8000)) - FLOOR - 100 * (np.exp(log_mel(loud / 10, 8000)) - FLOOR)
    np.testing.assert_allclose(change, 0, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_mel(np.zeros(199), 8000), r"samples: shape \(199,\); one axis of at least 200"),
        (lambda: log_mel(np.full(300, 2.0), 8000), r"samples: they must be numbers in \[-1, 1\]"),
        (lambda: log_mel(np.full(300, np.nan), 8000), r"samples: they must be numbers in \[-1, 1\]"),
        (lambda: mel_energies(np.zeros(500), 8000, 300, 80, 256), "window: 300, hop: 80, size: 256"),
        (lambda: mel_energies(np.zeros(500), 8000, 200, 0, 256), "window: 200, hop: 0"),
        (lambda: mel_filters(8000, 256, 0), "bands: 0 must be >= 1"),
        (lambda: mel_filters(8000, 256, 200), "cover no bin of a spectrum of 256 samples"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
