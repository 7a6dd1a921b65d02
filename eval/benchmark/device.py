"""Everything that needs an accelerator, in one run of at most eight minutes: checks, then times, the table last.

`sh eval/benchmark/device.sh` or `python -m eval.benchmark device`; `--tiny` on a CPU. Every case is first compared with
a better computation (exit status 1 where it is off or fails), then timed in turns with a copy, a bfloat16 matrix
product and PyTorch, where that is installed. device.json and device.md are written after every case, so that a run that
is stopped keeps what it has. The most valuable cases come first; one that would end too late is left out, and said so.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from covjax.comparison.page import markdown_table
from eval.benchmark.common import device_cases as core
from eval.benchmark.common import device_models as models
from eval.benchmark.common import runner
from eval.benchmark.common.device_cases import BANDWIDTH, PEAK, TINY, Case, Sizes
from eval.benchmark.common.runner import Timed, Times, interleave_queued, median_ratio, milliseconds

OURS = "covjax"
SMOKE = "CPU smoke, not an accelerator figure"
BUDGET = 450.0  # seconds after which no case begins; what still runs 20 seconds later is cut off


class Planned(NamedTuple):
    """A case to come: what it is called until it is made, and the seconds it is expected to take on an H100."""

    name: str
    seconds: float
    make: Callable[[Sizes, Any], Case]


PLAN = (
    Planned("poolers", 35, models.poolers),
    Planned("encoders", 15, models.encoders),
    Planned("ESM-2, short rows", 125, partial(models.esm2, False)),
    Planned("log, small", 35, partial(models.spectral, "log", 0)),
    Planned("√, small", 10, partial(models.spectral, "sqrt", 0)),
    Planned("projected moment", 10, core.projected),
    Planned("whole moment", 10, core.whole),
    Planned("TopK step, 1,536 features", 45, partial(core.sparse, 1536)),
    Planned("largest latents", 5, core.largest_latents),
    Planned("attention", 8, models.attention),
    Planned("packed moment", 10, core.packed),
    Planned("train encoder", 55, models.masked_training),
    Planned("Tucker step", 20, core.tucker),
    Planned("whole moment, masked tokens", 15, core.masked_whole),
    Planned("log, large", 50, partial(models.spectral, "log", 1)),
    Planned("ESM-2, long rows", 70, partial(models.esm2, True)),
    Planned("NTv3", 60, models.ntv3_window),
    Planned("TopK step, 1,280 features", 45, partial(core.sparse, 1280)),
)

# What a case's name begins with, the figure, what it should be on an H100 or H200: at least, or at most where negative.
TARGETS = (
    ("projected moment", f"share of {BANDWIDTH}", 0.80),
    ("packed moment", f"share of {BANDWIDTH}", 0.80),
    ("whole moment", f"share of {PEAK}", 0.70),
    ("log of", "eager ÷ covjax", 5.0),
    ("sqrt of", "eager ÷ covjax", 5.0),
    ("ESM-2 650M", "SDPA, sorted by length ÷ covjax", 1.2),
    ("ESM-2 650M", "with mean ÷ covjax", -1.1),
    ("ESM-2 650M", "with Σ ÷ covjax", -1.1),
    ("ESM-2 650M, t ≤ 512", "with log Σ ÷ covjax", -1.3),
    ("TopK step", "eager ÷ covjax", 1.2),
    ("TopK step", "torch.compile ÷ covjax", 1.0),
)


def yardsticks(copy_mebibytes: int, n: int) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """A copy and two matrix products (float32 and bfloat16 results), and the bytes or operations of each."""
    x = jnp.ones(copy_mebibytes << 19, jnp.bfloat16)
    a = jax.random.normal(jax.random.key(0), (n, n), jnp.bfloat16)
    negate = jax.jit(jnp.negative)
    run: dict[str, Callable[[], object]] = {"copy": partial(negate, x)}
    for dtype in ("float32", "bfloat16"):
        product = jax.jit(partial(jnp.matmul, preferred_element_type=dtype))
        run[f"matrix product to {dtype}"] = partial(product, a, a)
    return run, {name: 2.0 * (x.nbytes if name == "copy" else n**3) for name in run}


def figures(case: Case, times: Times, work: dict[str, float], smoke: bool) -> dict[str, Any]:
    """One case's row: error, and where it was timed medians, its rate, its share of a yardstick and all ratios."""
    row: dict[str, Any] = {"case": case.name, "shape": case.shape, "error": case.error, "tolerance": case.tolerance}
    row |= {"note": case.note, "figures": {}}
    if not times:
        return row
    row |= {"milliseconds": {name: milliseconds(times, name) for name in times}, "rounds": len(times[OURS])}
    for name, key in (("copy", "copy_bytes_per_second"), ("matrix product", "matrix_operations_per_second")):
        rates = [work[each] / statistics.median(times[each]) for each in times if each.startswith(name)]
        if rates and not smoke:
            row[key] = max(rates)
    if case.items is not None and not smoke:
        row["figures"][f"{case.items[1]} a second"] = case.items[0] / statistics.median(times[OURS])
    if case.bound is not None and not smoke:
        products = [name for name in work if name != "copy"]
        fastest = "copy" if case.bound == BANDWIDTH else min(products, key=lambda name: statistics.median(times[name]))
        amount = case.read if case.bound == BANDWIDTH else case.products
        row["figures"][f"share of {case.bound}"] = median_ratio(times, fastest, OURS) * amount / work[fastest]
    if not smoke:
        row["figures"] |= {f"{form} ÷ {OURS}": median_ratio(times, form, OURS) for form in (*case.forms, *case.peers)}
    return row


def targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every target of every case it is for; value and met are None where it was not measured."""
    results = []
    for start, what, wanted in TARGETS:
        for row in [row for row in rows if row["case"].startswith(start)] or [{"case": start, "figures": {}}]:
            value = row["figures"].get(what)
            met = None if value is None else value >= wanted if wanted > 0 else value <= -wanted
            results.append({"case": row["case"], "what": what, "wanted": wanted, "value": value, "met": met})
    return results


def page(report: dict[str, Any]) -> str:
    """The report as Markdown, the table of targets last."""
    rows = []
    for row in report["cases"]:
        error = "" if row["error"] is None else f"{row['error']:.1e} ({row['tolerance']:.0e})"
        ours = f"{row['milliseconds'][OURS]:.3f}" if "milliseconds" in row else ""
        shown = [f"{name}: {value:,.2f}" for name, value in row["figures"].items()]
        rows.append([row["case"], row["shape"], error, ours, "; ".join([*shown, row["note"]]).strip("; "), row["peak"]])
    met = {None: "not measured", True: "met", False: "missed"}
    wanted = [
        [
            *(t["case"], t["what"], f"{'≥' if t['wanted'] > 0 else '≤'} {abs(t['wanted']):g}"),
            *("" if t["value"] is None else f"{t['value']:.2f}", met[t["met"]]),
        ]
        for t in report["targets"]
    ]
    return "\n\n".join(
        [
            "# Device benchmark",
            *([f"**{SMOKE}.**"] if report["smoke"] else []),
            f"`{report['command']}`; {report['device']}; {report['versions']}; {report['seconds']:.0f} s.",
            markdown_table(["case", "shape", "error (limit)", "ms", "figures", "peak memory, GiB"], rows),
            "Medians over interleaved rounds. Errors are relative norms, against float64 for the core and the poolers, "
            "against the host's processor for encoders, against transformers for ESM-2. A share counts the bytes of "
            "the tokens once, or the products that cannot be avoided, against a copy or a bfloat16 product of the same "
            "rounds. Peaks are those of the process so far, of JAX / of the case in PyTorch.",
            *(f"- {line}" for line in report["left_out"]),
            "Targets, on one H100 or H200:",
            markdown_table(["case", "figure", "wanted", "value", ""], wanted),
        ]
    )


class Report:
    """What is known so far, written after every case."""

    def __init__(self, folder: Path, command: str, smoke: bool):
        self.folder, self.start = folder, time.perf_counter()
        self.facts: dict[str, Any] = {
            **{"command": command, "device": jax.devices()[0].device_kind, "versions": runner.versions()},
            **{"smoke": smoke, "note": SMOKE if smoke else "", "cases": [], "left_out": [], "failed": []},
        }
        folder.mkdir(parents=True, exist_ok=True)

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    def add(self, row: dict[str, Any]) -> None:
        """A finished case; off where its error is above its limit."""
        self.facts["cases"].append(row)
        if row["error"] is not None and not row["error"] <= row["tolerance"]:
            self.facts["failed"].append(f"{row['case']}: error {row['error']:.1e} is over {row['tolerance']:.0e}")
        self.write()

    def leave_out(self, line: str, failed: bool = False) -> None:
        """A case without figures, and why."""
        print(line, file=sys.stderr, flush=True)
        self.facts["left_out"].append(line)
        if failed:
            self.facts["failed"].append(line)
        self.write()

    def write(self) -> str:
        """Both files; returns the page."""
        facts = self.facts | {"seconds": self.elapsed(), "targets": targets(self.facts["cases"])}
        (self.folder / "device.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        text = page(facts)
        (self.folder / "device.md").write_text(text + "\n")
        return text


def _peer(platform: str):
    try:
        from eval.benchmark.common import pytorch
    except ImportError:
        return None, None, "no torch: figures against PyTorch are left out"
    where = pytorch.device(platform)
    if where is None:
        return None, None, f"no torch for {platform}: figures against PyTorch are left out"
    return pytorch.Peer(where, compiles=False), pytorch, ""


def where_time_goes(run: Callable[[], object], count: int = 8) -> list[dict[str, Any]]:
    """The operations that take most of one run's time on the device, by JAX's profiler, and all others together."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(run())
        (file,) = Path(folder).rglob("*.xplane.pb")
        planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
        devices = [plane for plane in planes if plane.name.startswith("/device:")] or planes
        total: dict[str, list[Any]] = {}
        lines = [line for plane in devices for line in plane.lines]
        lines = [line for line in lines if line.name == "XLA Ops"] or lines  # a TPU's other lines repeat them
        for event in (event for line in lines for event in line.events):
            facts = {key: str(value) for key, value in event.stats if key in ("hlo_op", "tf_op", "name")}
            if "hlo_op" in facts or devices != planes:
                name = facts.get("hlo_op", event.name)
                name = event.name if name.startswith("command_buffer") else name  # a CUDA graph of many operations
                kernel = total.setdefault(name, [0.0, 0, event.name, facts.get("tf_op") or facts.get("name", "")])
                kernel[0], kernel[1] = kernel[0] + event.duration_ns / 1e6, kernel[1] + 1
    rows = sorted(total.items(), key=lambda item: -item[1][0])
    result = [
        {"operation": name, "milliseconds": took, "calls": calls, "kernel": kernel[:80], "source": source[-120:]}
        for name, (took, calls, kernel, source) in rows[:count]
    ]
    rest = [values for _, values in rows[count:]]
    return [
        *result,
        {"operation": "others", "milliseconds": sum(v[0] for v in rest), "calls": sum(v[1] for v in rest)},
    ]


def _peaks(torch: Any) -> str:
    """GiB at the most, of JAX since the start, of PyTorch since it was last asked."""
    ours = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    shown = [] if ours is None else [f"{ours / 2**30:.1f}"]
    if torch is not None and torch.torch.cuda.is_available():
        shown.append(f"{torch.torch.cuda.max_memory_allocated() / 2**30:.1f}")
        torch.torch.cuda.reset_peak_memory_stats()
    return " / ".join(shown)


def run_case(planned: Planned, options: argparse.Namespace, peer: Any, torch: Any, smoke: bool) -> dict[str, Any]:
    """Make, check and time one case."""
    if peer is not None:  # compiling takes PyTorch a minute: only where there is a target for it
        peer.compiles = not smoke and planned.name.startswith("TopK")
    sizes = TINY if options.tiny else Sizes()
    case = planned.make(sizes, peer)
    yards, work = yardsticks(sizes.copy_mebibytes, sizes.matmul) if case.bound is not None else ({}, {})
    times: Times = {}
    if case.run is not None:
        functions = {name: Timed(run, jax.block_until_ready) for name, run in [*yards.items(), (OURS, case.run)]}
        functions |= {name: Timed(run, jax.block_until_ready) for name, run in case.forms.items()}
        functions |= {form: Timed(run, torch.wait) for form, run in case.peers.items()}
        times = interleave_queued(functions, options.seconds, 0.05 if options.seconds else 0)
    row = figures(case, times, work, smoke) | {"peak": _peaks(torch)}
    if options.profile and case.run is not None:
        row["profile"] = {name: where_time_goes(run) for name, run in {OURS: case.run, **case.forms}.items()}
    return row


def main(argv: list[str]) -> int:
    """Run what the time allows; exit status 1 where a result is off or a case failed."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory on the same device
    parser = argparse.ArgumentParser(prog="python -m eval.benchmark device", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a CPU")
    parser.add_argument("--seconds", type=float, default=2.0, help="timing budget of a case")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds of the whole run")
    parser.add_argument("--profile", action="store_true", help="for every case the operations that take most time")
    parser.add_argument("--only", action="append", default=[], help="a case of the plan; may stand several times")
    parser.add_argument("--output", type=Path, default=Path("runs/device"), help="folder of the report")
    options = parser.parse_args(argv)
    if unknown := set(options.only) - {planned.name for planned in PLAN}:
        names = ", ".join(planned.name for planned in PLAN)
        parser.error(f"--only {sorted(unknown)[0]!r} is no case of the plan: {names}")
    platform = jax.default_backend()
    smoke = platform == "cpu"
    if smoke and not options.tiny:
        parser.error("no accelerator here: JAX sees a CPU alone; --tiny makes the sizes small")
    report = Report(options.output, " ".join(["python -m eval.benchmark device", *argv]), smoke)
    peer, torch, missing = _peer(platform)
    if missing:
        report.leave_out(missing)
    plan = [planned for planned in PLAN if not options.only or planned.name in options.only]
    current = [plan[0].name]

    def cut_off() -> None:
        report.leave_out(f"{current[0]}: cut off after {report.elapsed():.0f} s", failed=True)
        print(report.write(), flush=True)
        os._exit(1)

    alarm = threading.Timer(options.budget + 20, cut_off)
    alarm.daemon = True
    alarm.start()
    for planned in plan:
        current[0] = planned.name
        expected = 0 if options.tiny else planned.seconds
        if report.elapsed() + expected > options.budget:
            report.leave_out(f"{planned.name}: left out, {report.elapsed():.0f} s are gone and it takes {expected:.0f}")
            continue
        begin = report.elapsed()
        try:
            row = run_case(planned, options, peer, torch, smoke)
        except Exception as error:  # out of memory, a missing package, a bug: the others still count
            traceback.print_exc()
            text = (str(error).strip().splitlines() or [""])[0][:200]
            report.leave_out(f"{planned.name}: failed, {type(error).__name__}: {text}", failed=True)
        else:
            row["seconds"] = report.elapsed() - begin
            report.add(row)
            print(f"{row['case']}: {row['seconds']:.0f} s, error {row['error']}", flush=True)
        gc.collect()  # the next case needs the memory
        if torch is not None and torch.torch.cuda.is_available():
            torch.torch.cuda.empty_cache()
    alarm.cancel()
    print(report.write())
    for line in report.facts["failed"]:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if report.facts["failed"] else 0
