"""The suite: every task in a process of its own, failures named, complete tasks reused, one report."""

import functools
import json
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from covjax.command import main
from covjax.errors import InputError
from covjax.jobs.disk import sealed
from covjax.tasks import report as suite_report
from covjax.tasks import run as suite
from covjax.tasks.report import write_suite
from covjax.tasks.run import run_suite, task_names
from covjax.tasks.sections import relative_line, resolution
from tests.suite_examples import changed, example
from tests.test_suite_summary import LOSES, WINS


@pytest.fixture
def configs(tmp_path, monkeypatch):
    monkeypatch.setattr(suite_report, "draw_suite", lambda *_: {})  # seconds each time; they have a test of their own
    folder = tmp_path / "configs"
    folder.mkdir()
    for name in ("alpha", "beta", "gamma", "_shared"):
        (folder / f"{name}.py").write_text("")
    return folder


class Machine:
    """Stands in for the subprocesses: writes the results of the tasks it knows, fails as told with the others."""

    def __init__(self, results, failures=()):
        self.results, self.failures, self.calls = results, dict(failures), []

    def __call__(self, command, stdout, **_):
        self.calls.append(command)
        folder = Path(command[command.index("--output") + 1])
        status, text = self.failures.get(folder.name, (0, "done"))
        stdout.write(text)
        if status == 0:
            (folder / "results.json").write_text(sealed(self.results[folder.name].dump()))
        return subprocess.CompletedProcess(command, status)


RESULTS = {"alpha": example("Alpha", WINS), "beta": example("Beta", LOSES), "gamma": example("Gamma", WINS)}


def records(output):
    return {run["task"]: run for run in json.loads((output / "suite.json").read_text())["runs"]}


def test_failures_are_named_and_the_others_reported(configs, tmp_path, monkeypatch, capsys):
    failures = {"alpha": (2, "fit: 3%\rpython -m eval.compare: error: data: no such file\n"), "gamma": (-9, "fit")}
    machine = Machine(RESULTS, failures)
    monkeypatch.setattr(suite.subprocess, "run", machine)
    output = tmp_path / "suite"
    assert run_suite(["all"], output, ["--resamples", "200"], command="the command", configs=configs) == 1
    assert [Path(call[call.index("--output") + 1]).name for call in machine.calls] == ["alpha", "beta", "gamma"]
    assert machine.calls[0][-2:] == ["--resamples", "200"]
    runs = records(output)
    assert runs["alpha"]["reason"] == "data: no such file"
    assert runs["gamma"]["reason"] == "killed by SIGKILL"
    assert (runs["beta"]["status"], runs["beta"]["reason"]) == ("complete", "")
    assert capsys.readouterr().err.splitlines() == [
        "not complete: alpha: data: no such file",
        "not complete: gamma: killed by SIGKILL",
    ]
    page = (output / "report.html").read_text()
    assert "2 of 3 tasks are not in this report" in page
    assert "data: no such file" in page
    assert list(json.loads((output / "suite.json").read_text())["manifests"]) == ["beta"]


def test_a_traceback_is_named_by_its_last_line(configs, tmp_path, monkeypatch):
    text = "Traceback (most recent call last):\n  …\nValueError: error: x\n"
    monkeypatch.setattr(suite.subprocess, "run", Machine(RESULTS, {"alpha": (1, text)}))
    assert run_suite(["alpha"], tmp_path / "suite", configs=configs) == 1
    assert records(tmp_path / "suite")["alpha"]["reason"] == "ValueError: error: x"


def test_complete_tasks_keep_the_seconds_they_took(configs, tmp_path, monkeypatch):
    output = tmp_path / "suite"
    monkeypatch.setattr(suite.subprocess, "run", Machine(RESULTS))
    assert run_suite(["alpha", "beta"], output, configs=configs) == 0
    first = records(output)
    assert not first["alpha"]["reused"]
    changed = Machine(RESULTS | {"beta": example("Beta, other data", LOSES)})
    monkeypatch.setattr(suite.subprocess, "run", changed)
    assert run_suite(["alpha", "beta"], output, configs=configs) == 0
    second = records(output)
    assert second["alpha"]["reused"]
    assert second["alpha"]["seconds"] == first["alpha"]["seconds"]
    assert not second["beta"]["reused"]
    assert run_suite(["alpha"], output, force=True, configs=configs) == 0
    assert changed.calls[-1][-1] == "--force"
    assert not records(output)["alpha"]["reused"]
    (output / "alpha" / "run.json").unlink()  # results that another command made
    assert run_suite(["alpha"], output, configs=configs) == 0
    assert records(output)["alpha"]["seconds"] is None


def test_an_earlier_result_of_a_task_that_now_fails_is_not_reported(configs, tmp_path, monkeypatch):
    output = tmp_path / "suite"
    monkeypatch.setattr(suite.subprocess, "run", Machine(RESULTS))
    run_suite(["alpha", "beta"], output, configs=configs)
    monkeypatch.setattr(suite.subprocess, "run", Machine(RESULTS, {"beta": (2, "x: error: config.seed: 0 -> 1")}))
    assert run_suite(["alpha", "beta"], output, configs=configs) == 1
    assert list(json.loads((output / "suite.json").read_text())["manifests"]) == ["alpha"]


@pytest.mark.parametrize("names", [["delta"], ["alpha", "alpha"], [], ["all", "alpha"]])
def test_names_that_are_not_allowed(configs, tmp_path, names):
    with pytest.raises(InputError, match="distinct names of alpha, beta, gamma"):
        run_suite(names, tmp_path / "suite", configs=configs)
    assert not (tmp_path / "suite").exists()


def test_an_output_that_cannot_be_written(configs):
    with pytest.raises(InputError, match=r"output: /proc/none.* cannot be written"):
        run_suite(["alpha"], Path("/proc/none"), configs=configs)


def test_command_line(configs, tmp_path, monkeypatch, capsys):
    machine = Machine(RESULTS)
    monkeypatch.setattr(suite.subprocess, "run", machine)
    monkeypatch.setattr(suite, "run_suite", functools.partial(run_suite, configs=configs))
    output = str(tmp_path / "suite")
    argv = ["--suite", "alpha,gamma", "--resamples", "300", "--output", output, "--force"]
    assert suite.main(argv) == 0
    assert len(machine.calls) == 2
    assert machine.calls[0][-3:] == ["--resamples", "300", "--force"]
    stored = json.loads((tmp_path / "suite" / "suite.json").read_text())
    assert stored["command"] == f"covjax tasks {' '.join(argv)}"
    for options, message in (
        (["--resamples", "many"], "invalid int value: 'many'"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
    ):
        with pytest.raises(SystemExit) as caught:
            suite.main(["--suite", "all", "--output", output, *options])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        suite.main(["all", "--config=x.py"])
    assert "covjax tasks: error: --config: not allowed beside the names of tasks" in capsys.readouterr().err
    assert len(machine.calls) == 2
    assert suite.main(["alpha", "--resamples", "300", "--output", output]) == 0  # the names first, without an option
    assert len(machine.calls) == 3
    assert suite.main(["--suite", "alpha", "--output", output], command="python -m eval.compare") == 0
    stored = json.loads((tmp_path / "suite" / "suite.json").read_text())
    assert stored["command"] == f"python -m eval.compare --suite alpha --output {output}"


class Page(HTMLParser):
    VOID = ("meta", "br", "path", "use")

    def __init__(self):
        super().__init__()
        self.tags, self.links, self.ids, self.open = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [v for k, v in attributes if k in ("src", "href", "xlink:href") and not v.startswith("#")]
        self.ids += [v for k, v in attributes if k == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_holds_every_section_and_figure(tmp_path):
    tracks = example("tracks", WINS | {"pca_sqrt_covariance_2": (0.1, 0.3)}, task="regression")
    tracks = changed(tracks, "rows", 2, "probes", "ridge", "test", "r2", "seeds", value=[0.61, 0.63])
    warnings = ["mean, ridge: penalty 1e-06 is at the edge of the grid", "6 groups & few"]
    wins = example("A <b> & c", WINS, warnings=warnings)
    tasks = {"wins": wins, "loses": example("loses", LOSES), "tracks": tracks}
    runs = [
        {"task": key, "status": "complete", "reason": "", "reused": False, "seconds": 12.0, "command": ""}
        for key in tasks
    ]
    summary = write_suite(tasks, runs, tmp_path, "python -m eval.compare --suite all")["summary"]
    text = (tmp_path / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.tags.count("svg") == 5  # planned, mean ranks, decomposition, two rank panels
    assert page.links == [f"{key}/report.html" for key in tasks]
    assert len(page.ids) == len(set(page.ids))
    assert "script" not in page.tags
    assert "A &lt;b&gt; &amp; c" in text
    assert "2 seeds 0.610–0.630" in text
    assert "+55.0 %" in text
    assert "Chosen on validation: sqrt_covariance, [+45.0, +55.0] %; +52.9 %: not reached" in text
    for cell in summary["headline"][0]["cells"].values():
        assert f"{cell['value']:.3f}" in text
    for name in ("planned", "mean_ranks", "rank", "decomposition"):
        assert (tmp_path / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert "<h2>Warnings of the tasks</h2>" in text
    assert "<li>6 groups &amp; few</li>" in text
    table = (tmp_path / "suite.md").read_text()
    assert "- wins: mean, ridge: penalty 1e-06 is at the edge of the grid; 6 groups & few" in table
    assert "| loses | MCC | 0.500 | sqrt_covariance | 0.450 | -0.050 [-0.070, -0.030] |" in table
    assert "**0.620** (+0.220 [+0.200, +0.240])" in table
    widths = {line.count(" | ") for line in table.splitlines() if line.startswith("|")}
    assert len(widths) == 2  # two tables, all rows of each as wide as its head


@pytest.mark.usefixtures("configs")
def test_too_few_resamples_for_holm_are_said(tmp_path):
    """The smallest p of 199 resamples is 0.01: over three tasks 0.03, over six 0.06."""
    runs = [{"task": "t0", "status": "complete", "reason": "", "reused": False, "seconds": 1.0, "command": ""}]
    for count, said in ((3, False), (6, True)):
        tasks = {f"t{i}": example(f"t{i}", WINS) for i in range(count)}
        write_suite(tasks, runs, tmp_path / str(count), "")
        text = (tmp_path / str(count) / "report.html").read_text()
        assert ("no gain can pass: the smallest p of one of 6 is 0.01" in text) == said


def test_relative_line_without_a_positive_reference():
    entry = {"task": "t", "targets": 1, "reference_r2": -0.1, "rows": {"sqrt_covariance": {"r2": 0.2, "percent": None}}}
    assert "not positive, so no percentage; R² sqrt_covariance 0.200" in relative_line(entry)


def test_every_task_of_the_project_has_a_name():
    assert all(name.isidentifier() for name in task_names())


TASK = """
import numpy as np
from covjax.encoders import register_encoder
from covjax.encoders.unirep import UniRep
from covjax.comparison.config import CompareConfig
from tests.test_unirep import random_weights

register_encoder("tiny", lambda dtype: UniRep(random_weights()))

def get_config():
    small = dict(ranks=(2,), trained=(), probes=("ridge",), penalties=(1e-2, 1.0), resamples=100)
    return CompareConfig(name="tiny", data={data!r}, encoder="tiny", **small)
"""


@pytest.mark.slow
def test_real_processes(tmp_path, rng, capsys):
    lines = ["sequence,label,split"]
    for split, n in (("train", 60), ("validation", 30), ("test", 30)):
        for sequence in rng.choice(list("ACDEFG"), (n, 12)):
            lines.append(f"M{''.join(sequence)},{int((sequence == 'A').sum() > 1)},{split}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "absent.py").write_text(TASK.format(data=str(tmp_path / "none.csv")))
    (configs / "tiny.py").write_text(TASK.format(data=str(tmp_path / "t.csv")))
    assert run_suite(["all"], tmp_path / "suite", ["--seed", "1"], configs=configs) == 1
    runs = records(tmp_path / "suite")
    assert runs["absent"]["reason"].endswith("none.csv: no such file")
    assert runs["tiny"]["status"] == "complete", runs["tiny"]["reason"]
    results = json.loads((tmp_path / "suite" / "tiny" / "results.json").read_text())
    assert results["manifest"]["config"]["seed"] == 1
    assert run_suite(["tiny"], tmp_path / "suite", ["--seed", "1"], configs=configs) == 0
    again = records(tmp_path / "suite")["tiny"]
    assert again["reused"]
    assert np.isclose(again["seconds"], runs["tiny"]["seconds"])


def test_the_list_is_printed_under_quiet_too(capsys):
    assert main(["--quiet", "tasks"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("deeploc ")
    with pytest.raises(SystemExit):
        main(["--quiet", "tasks", "nothing"])
    assert "suite: 'nothing' is not allowed; all, or" in capsys.readouterr().err


def test_few_resamples_say_nothing_of_folds():
    assert "no gain can pass" in resolution([{"resamples": 10}] * 3)
    assert resolution([{"resamples": None}] * 3) == ""
