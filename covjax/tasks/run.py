"""Every built-in task, each in a process of its own, and one report of all.

    covjax tasks
    covjax tasks all --output runs/suite
    covjax tasks go_esm2,splice --output runs/suite --resamples 200

Without a name the tasks are listed. Options of `covjax compare` go to every task. Complete tasks are reused. A task
that fails (its data is absent, say) is named with the reason in the report, and the suite goes on.
"""

import argparse
import hashlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from covjax.comparison.config import CompareConfig
from covjax.comparison.results import read_results
from covjax.errors import InputError
from covjax.jobs.cli import exit_on_input_error, parse
from covjax.jobs.disk import Damaged, read_sealed
from covjax.jobs.parser import CommandParser
from covjax.notes import note, silence
from covjax.tasks.configs import TASK_CONFIGS
from covjax.tasks.records import RunRecord

COMMAND = "covjax compare"


def task_names(configs: Path | None = None) -> list[str]:
    """Names of the tasks in alphabetical order: the built-in ones, or the files of a folder of configs."""
    return sorted(TASK_CONFIGS if configs is None else (path.stem for path in configs.glob("[!_]*.py")))


def main(argv: Sequence[str], command: str = "covjax tasks") -> int:
    """`all|NAME,NAME [--output FOLDER] [--force]`; every other option goes to every task. The exit status.

    Without arguments the tasks are listed. `python -m eval.compare` gives the names as `--suite NAMES`.
    Exit status 2 and one line for a user's error; options that no comparison has end it before the first task.
    """
    if not [word for word in argv if word != "--quiet"]:
        print("\n".join(f"{name:<20}{config().name}" for name, config in sorted(TASK_CONFIGS.items())))
        return 0
    # The names stand first: further on they look like the value of an option that this parser does not know.
    first = 0 if argv[0].startswith("-") else 1
    parser = CommandParser(command, __doc__ or "", "all|NAME,NAME")
    parser.add_argument("--suite", default=argv[0] if first else None, help=argparse.SUPPRESS)
    parser.add_argument(
        "--output", metavar="FOLDER", type=Path, default=Path("runs/suite"), help="of the report (default: runs/suite)"
    )
    parser.add_argument("--force", action="store_true", help="redo everything, also what is complete")
    flags, overrides = parser.parse_known_args(argv[first:])
    with exit_on_input_error(command), silence(flags.quiet):
        if flags.suite is None:
            raise InputError("tasks: name them first: covjax tasks all --output runs/suite")
        if any(each.split("=")[0] == "--config" for each in overrides):
            raise InputError("--config: not allowed beside the names of tasks, which are built-in configs")
        parse(command, __doc__ or "", CompareConfig, overrides)
        typed = f"{command} {shlex.join(argv)}"
        return run_suite(flags.suite.split(","), flags.output, overrides, flags.force, typed)


def run_suite(
    names: Sequence[str],
    output: Path,
    overrides: Sequence[str] = (),
    force: bool = False,
    command: str = "",
    configs: Path | None = None,
) -> int:
    """Run the named tasks (`["all"]`: all of them) one after the other; the report stands in `output/report.html`.

    Every task runs as `python -m eval.compare --config NAME --output output/NAME OVERRIDES` in a
    subprocess, whose text goes to `output/NAME/log.txt`: its memory comes back, and a kill loses one task only.
    Returns the exit status: 0 where every task is complete, 1 otherwise, with one line for each that is not.

    Raises InputError for a task that does not exist, a task named twice, or an output that cannot be written.
    """
    known = task_names(configs)
    names = known if list(names) == ["all"] else list(names)
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) < len(names):
        raise InputError(f"suite: {','.join(names)!r} is not allowed; all, or distinct names of {', '.join(known)}")
    from covjax.jobs.folder import claim  # with JAX, whose import takes seconds that the help need not wait for

    with claim(output, f"{COMMAND} --suite") as folder:
        folder.begin({})  # a comparison has a report of the same name, and neither takes the other's folder
        return _run_suite(names, output, overrides, force, command, configs)


def _run_suite(
    names: Sequence[str], output: Path, overrides: Sequence[str], force: bool, command: str, configs: Path | None
) -> int:
    from covjax.tasks.report import write_suite

    tasks, runs = {}, []
    for place, name in enumerate(names):
        note(f"[{place + 1}/{len(names)}] {name} …")
        run = run_task(name, configs, output, overrides, force)
        runs.append(run)
        if run["status"] == "complete":
            try:
                tasks[name] = read_results(output / name / "results.json")
            except (InputError, FileNotFoundError) as error:
                run |= {"status": "failed", "reason": f"{error}; the same command makes it again"}
        took = "reused" if run["reused"] else f"{run['seconds']:.0f} s"
        note(f"[{place + 1}/{len(names)}] {name}: {run['status']} ({took}) {run['reason']}".rstrip())
    write_suite(tasks, runs, output, command)
    print(f"\nreport: {output / 'report.html'}   tables: {output / 'suite.md'}   numbers: {output / 'suite.json'}")
    failed = [run for run in runs if run["status"] != "complete"]
    for run in failed:
        print(f"not complete: {run['task']}: {run['reason']}", file=sys.stderr)
    return 1 if failed else 0


def run_task(name: str, configs: Path | None, output: Path, overrides: Sequence[str], force: bool) -> RunRecord:
    """Run one task; its record.

    `seconds` are those of the process that made the results: a reused task keeps them from `run.json` beside its
    results, and has None where the suite did not make it.
    """
    folder = output / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "log.txt").touch()
    except OSError as error:
        raise InputError(f"output: {folder}: cannot be written: {error.strerror}") from None
    options = [
        "--config",
        os.path.relpath(configs / f"{name}.py") if configs else name,
        "--output",
        str(folder),
        *overrides,
    ]
    options += ["--force"] if force else []
    before = _digest(folder / "results.json")
    start = time.monotonic()
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        status = subprocess.run(
            [sys.executable, "-m", "covjax.comparison.command", *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    record: RunRecord = {
        "task": name,
        "status": "complete" if status == 0 else "failed",
        "reason": "",
        "reused": False,
        "command": f"{COMMAND} {shlex.join(options)}",
        "seconds": time.monotonic() - start,
    }
    after = _digest(folder / "results.json")
    if status:
        record["reason"] = _reason(status, folder / "log.txt")
    elif after == before and not force:
        record["reused"] = True
        record["seconds"] = _earlier_seconds(folder / "run.json", after)
    else:
        from covjax.jobs.folder import write_sealed

        write_sealed(folder / "run.json", {"seconds": record["seconds"], "results": after})
    return record


def _reason(status: int, log: Path) -> str:
    """The last line of the log, without the prefix of an InputError; the signal's name for a killed task."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {status}, no message")
    return last.partition("error: ")[2] or last if status == 2 else last


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _earlier_seconds(path: Path, digest: str | None) -> float | None:
    try:
        record = read_sealed(path)
    except (Damaged, FileNotFoundError):
        return None
    return record["seconds"] if record["results"] == digest else None
