"""Log-mel energies of a recording: short-time power spectra under triangular filters on the mel scale of Slaney (1998).

Everything is computed in float64 with NumPy: no weights, no state, the same numbers on every machine. The scale, the
filters' areas and the periodic Hann window are those of `librosa.feature.melspectrogram`.
"""

import numpy as np
from jaxtyping import Float

from covjax.errors import InputError

WINDOW, HOP = 0.025, 0.010  # seconds
BANDS = 40
FLOOR = 1e-6  # added to an energy before the logarithm; samples lie in [-1, 1]
LINEAR = 200 / 3  # Hz a mel below `CORNER`
CORNER = 1000.0  # Hz
STEP = np.log(6.4) / 27  # above it, natural logarithm of the ratio of two frequencies a mel apart


def hz_to_mel(hz: Float[np.ndarray, "*n"] | float) -> Float[np.ndarray, "*n"]:
    """Frequencies in Hz on the mel scale of Slaney: linear below 1,000 Hz (15 mel), logarithmic above."""
    hz = np.asarray(hz, np.float64)
    return np.where(hz < CORNER, hz / LINEAR, CORNER / LINEAR + np.log(np.maximum(hz, CORNER) / CORNER) / STEP)


def mel_to_hz(mel: Float[np.ndarray, "*n"] | float) -> Float[np.ndarray, "*n"]:
    """The inverse of `hz_to_mel`."""
    mel = np.asarray(mel, np.float64)
    corner = CORNER / LINEAR
    return np.where(mel < corner, mel * LINEAR, CORNER * np.exp(STEP * (np.maximum(mel, corner) - corner)))


def mel_filters(rate: int, size: int, bands: int = BANDS) -> Float[np.ndarray, "bands bins"]:
    """Triangular filters over the bins of a spectrum of `size` samples, from 0 Hz to half the rate.

    Corners are equally spaced in mel; each filter has the area 1 in Hz (its peak is 2 / its width).

    Raises InputError for fewer than one band, and where a filter covers no bin: fewer bands or a longer `size`.
    """
    if bands < 1:
        raise InputError(f"bands: {bands} must be >= 1")
    bins = np.arange(size // 2 + 1) * (rate / size)
    corners = mel_to_hz(np.linspace(0, hz_to_mel(rate / 2), bands + 2))
    low, peak, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rise, fall = (bins - low) / (peak - low), (high - bins) / (high - peak)
    filters = np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low)
    if empty := int((filters.max(1) == 0).sum()):
        raise InputError(
            f"bands: {empty} of {bands} cover no bin of a spectrum of {size} samples at {rate} Hz; give fewer"
        )
    return filters


def mel_energies(
    samples: Float[np.ndarray, "n"], rate: int, window: int, hop: int, size: int, bands: int = BANDS
) -> Float[np.ndarray, "frames bands"]:
    """Power spectra of overlapping frames, under `mel_filters`.

    Frame i is the `window` samples from i · `hop` under a periodic Hann window, filled up with zeros to `size`; samples
    after the last whole frame are left out. |DFT|² is not normalised.

    Raises InputError where the samples are fewer than one window, the window is longer than `size`, and as
    `mel_filters`.
    """
    samples = np.asarray(samples, np.float64)
    if samples.ndim != 1 or len(samples) < window:
        raise InputError(f"samples: shape {samples.shape}; one axis of at least {window} (one window) is needed")
    if not 1 <= window <= size or hop < 1:
        raise InputError(f"window: {window}, hop: {hop}, size: {size}; 1 <= window <= size and hop >= 1 are needed")
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    power = np.abs(np.fft.rfft(frames * hann, size, axis=1)) ** 2
    return power @ mel_filters(rate, size, bands).T


def log_mel(samples: Float[np.ndarray, "n"], rate: int) -> Float[np.ndarray, "frames bands"]:
    """Natural logarithm of (energy + 1e-6) in 40 mel bands, in frames of 25 ms every 10 ms.

    The spectrum is that of the frame, filled up to a power of two. `samples` lie in [-1, 1], `rate` is in Hz.

    Raises InputError for samples outside [-1, 1], NaN among them, and as `mel_energies`.
    """
    samples = np.asarray(samples, np.float64)
    if not (np.abs(samples) <= 1).all():
        raise InputError("samples: they must be numbers in [-1, 1]; divide integers by the largest of their type")
    window, hop = round(WINDOW * rate), round(HOP * rate)
    size = 1 << max(window - 1, 1).bit_length()
    return np.log(mel_energies(samples, rate, window, hop, size) + FLOOR)
