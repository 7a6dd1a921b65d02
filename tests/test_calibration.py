"""The simulation behind docs/calibration.md: its null data sets hold no effect, and its shares are shares."""

import numpy as np
import pytest

from eval import calibration


def test_all_rows_are_equally_good(rng):
    _, latent, scores = calibration.draw(rng, 40_000, 1, 3)
    for _, latents, label, metric in calibration.CASES:
        if latents == 1:
            values = [calibration.value(metric, label(latent), row) for row in scores]
            assert np.ptp(values) < 0.01


@pytest.mark.parametrize("name", ["R²", "MCC, classes 7:2:1"])
def test_shares_of_a_few_data_sets(name):
    case = next(case for case in calibration.CASES if case[0] == name)
    shares = calibration.calibrate(case, groups=30, data_sets=40, resamples=200, seed=0)
    assert shares["undefined"] == 0
    assert 0.75 < shares["value"] <= 1
    assert 0.75 < shares["difference"] <= 1
    assert shares["co-occurrence"] <= shares["better"] < 0.2


def test_the_command_prints_a_table(capsys, monkeypatch):
    monkeypatch.setattr(calibration, "CASES", calibration.CASES[-1:])
    monkeypatch.setattr(calibration, "GROUPS", (20,))
    calibration.main(["--data-sets", "3", "--resamples", "100"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| metric | groups | value |")
    assert lines[2].startswith("| R² | 20 | ")
