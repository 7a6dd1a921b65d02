"""The page on scaling is what its script writes, and its arithmetic is that of small numbers by hand."""

import json

import pytest

from eval import scaling
from tests.conftest import ROOT

PROGRAM = {"operations": 600, "bytes_accessed": 40, "collectives": [["all-reduce", 100, 1], ["all-gather", 50, 2]]}


def test_the_page_is_what_the_script_writes(tmp_path):
    page = tmp_path / "scaling.md"
    assert scaling.main([f"--compiled={ROOT / scaling.COMPILED}", f"--output={page}"]) == 0
    assert page.read_text() == (ROOT / scaling.PAGE).read_text()


def test_every_assumption_is_explained_and_used(tmp_path):
    """Another value of it changes the page in more places than the row that states it."""

    def page(*options):
        scaling.main([f"--compiled={ROOT / scaling.COMPILED}", f"--output={tmp_path / 'page.md'}", *options])
        return (tmp_path / "page.md").read_text().splitlines()

    default = page()
    for name, value in vars(scaling.Assumptions()).items():
        other = page(f"--{name.replace('_', '-')}={3 * value}")
        row = [line for line in other if line.startswith(f"| {name} |")]
        assert len(row) == 1, name
        assert row[0].split("|")[3].strip(), name
        assert set(other) - set(default) - set(row), name


def test_seconds_by_hand():
    a = scaling.Assumptions(
        chips=4, matrix_rate=100, matrix_use=0.5, memory_rate=10, memory_use=0.5, link_rate=25, link_use=0.5
    )
    # 6 passes of 600 operations at 50 a second; 40 bytes at 5; three quarters of 2·100 + 2·50 bytes at 12.5
    assert scaling.seconds(PROGRAM, a, 6) == pytest.approx((72, 8, 18))


def test_jobs_by_hand():
    a = scaling.Assumptions(
        chips=4, matrix_rate=1e12, matrix_use=0.5, memory_rate=1e9, memory_use=0.5, genes=10, bases=300_000
    )
    program = {"operations": 10**12, "bytes_accessed": 5 * 10**9, "peak_bytes": 4e9, "collectives": []}
    step = {"operations": 10**10, "bytes_accessed": 10**9, "peak_bytes": 8e9, "collectives": []}
    compiled = {"programs": {scaling.tpu_compile.NTV3: program, "TopK step, tokens sharded": step}}
    job = scaling.encoding(compiled, a)
    assert job["windows"] == 10 * 3  # of 131,072 − 2 · 8,192 bases
    moment = 6 * 2 * 131_072 * 1536**2 / 5e11
    assert job["seconds in all"] == pytest.approx(8 * (10 + moment))  # memory: 5e9 bytes at 5e8; products take 2 s
    assert job["share of a chip's memory"] == 0.25
    run = scaling.training(compiled, a)
    assert run["tokens of a step"] == 4096
    steps = 244_141  # of a billion tokens
    assert run["seconds in all"] == pytest.approx(max(steps * 2.0, 1e9 * 1536 * 2 / (1e9 * 4 / 8)))


def test_measured_rates_replace_published_ones_and_a_smoke_test_is_refused(tmp_path, capsys):
    case = {"matrix_operations_per_second": 7e14, "copy_bytes_per_second": 4e12}
    report = {
        "smoke": False,
        "device": "card X",
        "cases": [case, {name: value / 2 for name, value in case.items()}, {}],
    }
    file, page = tmp_path / "device.json", tmp_path / "page.md"
    options = [f"--compiled={ROOT / scaling.COMPILED}", f"--measured={file}", f"--output={page}"]
    file.write_text(json.dumps(report))
    assert scaling.main(options) == 0
    assert "rates: measured on one card X" in page.read_text()
    assert "| matrix_rate | 7e+14 |" in page.read_text()
    assert "| matrix_use | 1 |" in page.read_text()
    file.write_text(json.dumps(report | {"smoke": True}))
    with pytest.raises(SystemExit):
        scaling.main(options)
    assert "is a CPU smoke test" in capsys.readouterr().err
