"""The main programs through the real XLA:TPU compiler on a machine without a TPU: memory, work and collectives.

`python -m eval.tpu_compile` rewrites docs/tpu-compile.json, from which `python -m eval.scaling` computes its page.
Needs the extra `tpu-compile` (the libtpu wheel). All figures are those of one device, as the compiler counts them: the
body of a loop once. Half an hour, of which NTv3's convolutions take most.
"""

import argparse
import functools
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from covjax import projected_moment, second_moment
from covjax.autoencoders import make_autoencoder
from covjax.encoders import ntv3
from covjax.encoders.weights import AskedTensors
from covjax.training.state import Step, TrainState, make_optimiser

SLICE = "v5e:2x4"
TOKENS, FEATURES, RANK = 1 << 20, 1536, 64
SEQUENCES, LENGTH = 64, 2048  # of a Tucker step
BATCH, LATENTS, K = 8192, 65_536, 32  # of a TopK step
WINDOW = 131_072  # bases of one window of NTv3
NTV3_650M: dict[str, Any] = {
    **{"model_type": "ntv3", "alphabet_size": 11, "token_embed_dim": 16, "conv_init_embed_dim": 1536},
    **{"embed_dim": 1536, "ffn_embed_dim": 6144, "num_layers": 12, "num_downsamples": 7, "attention_heads": 24},
    **{"key_size": 64, "deconv_upsample_type": "conv_transpose", "layer_norm_eps": 1e-5},
}
NTV3 = "NTv3-650M, one window"
_COLLECTIVE = re.compile(
    r"= (\([^=]*?\)|\S+) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}


def slice_mesh() -> Mesh:
    """The eight devices of the slice, which are not there, along one axis "data"."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # do not ask a cloud what this machine is
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # another process may compile: no device is held
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    return Mesh(np.array(topologies.get_topology_desc(platform="tpu", topology_name=SLICE).devices), ("data",))


def collectives(text: str) -> Counter[tuple[str, int]]:
    """How often each (kind, bytes of the result on one device) stands in a compiled program's text."""
    found: Counter[tuple[str, int]] = Counter()
    for shapes, kind, start in _COLLECTIVE.findall(text):
        sizes = [_BYTES[d] * int(np.prod([int(n) for n in dims.split(",") if n])) for d, dims in _SHAPE.findall(shapes)]
        # The start of an asynchronous one holds operand and result, and its bookkeeping.
        found[kind, sizes[1] if start and len(sizes) > 1 else sum(sizes)] += 1
    return found


def account(lowered: jax.stages.Lowered) -> dict[str, Any]:
    """Compile, and what one device needs: bytes, operations, collectives."""
    compiled = lowered.compile()
    memory: Any = compiled.memory_analysis()
    cost: Any = compiled.cost_analysis()
    counted = collectives(compiled.as_text() or "")
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": memory.peak_memory_in_bytes,
        "operations": int(cost["flops"]),
        "bytes_accessed": int(cost["bytes accessed"]),
        "collectives": [[kind, size, count] for (kind, size), count in sorted(counted.items())],
    }


def programs(mesh: Mesh) -> dict[str, Callable[[], jax.stages.Lowered]]:
    """Name → lowering; tokens are bfloat16 unless the name says otherwise."""
    return {
        "projected moment": functools.partial(_projected, mesh),
        "whole moment": functools.partial(_whole, mesh),
        "Tucker step": functools.partial(_tucker, mesh),
        "TopK step, tokens sharded": functools.partial(_sparse, mesh, latents_sharded=False),
        "TopK step, latents sharded": functools.partial(_sparse, mesh, latents_sharded=True),
        NTV3: functools.partial(_ntv3, mesh),
    }


def _rows(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec("data"))


def _whole_on_each(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def _projected(mesh: Mesh) -> jax.stages.Lowered:
    x = jax.ShapeDtypeStruct((TOKENS, FEATURES), jnp.bfloat16, sharding=_rows(mesh))
    w = jax.ShapeDtypeStruct((TOKENS,), jnp.float32, sharding=_rows(mesh))
    left = jax.ShapeDtypeStruct((FEATURES, RANK), jnp.float32, sharding=_whole_on_each(mesh))
    function = lambda x, w, left: projected_moment(x, left, None, w)  # noqa: E731
    return jax.jit(function, out_shardings=_whole_on_each(mesh)).lower(x, w, left)


def _whole(mesh: Mesh) -> jax.stages.Lowered:
    x = jax.ShapeDtypeStruct((TOKENS, FEATURES), jnp.bfloat16, sharding=_rows(mesh))
    w = jax.ShapeDtypeStruct((TOKENS,), jnp.float32, sharding=_rows(mesh))
    return jax.jit(second_moment, out_shardings=_whole_on_each(mesh)).lower(x, w)


def _state(kind: str, sharding: Callable, **options) -> tuple[Any, Any]:
    """Graph and abstract state of a training, whose arrays are never made."""
    graphs = []

    def make():
        model = make_autoencoder(kind, FEATURES, **options)
        graph, state = nnx.split(TrainState(model, make_optimiser(1000, 1e-3, 10, 0.2, None)))
        graphs.append(graph)
        return state

    place = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding(a))  # noqa: E731
    state = jax.tree.map(place, jax.eval_shape(make))
    return graphs[0], state


def _tucker(mesh: Mesh) -> jax.stages.Lowered:
    graph, state = _state("tucker", lambda _: _whole_on_each(mesh), rank=RANK)
    x = jax.ShapeDtypeStruct((SEQUENCES, LENGTH, FEATURES), jnp.bfloat16, sharding=_rows(mesh))
    w = jax.ShapeDtypeStruct((SEQUENCES, LENGTH), jnp.float32, sharding=_rows(mesh))
    return _lower_step(graph, state, x, w)


def _sparse(mesh: Mesh, latents_sharded: bool) -> jax.stages.Lowered:
    each = mesh.size if latents_sharded else 1
    mesh = Mesh(mesh.devices.reshape(-1, each), ("data", "model"))
    latents = NamedSharding(mesh, PartitionSpec("model"))
    split = lambda a: latents if latents_sharded and a.shape[:1] == (LATENTS,) else _whole_on_each(mesh)  # noqa: E731
    graph, state = _state("topk", split, latents=LATENTS, k=K)
    x = jax.ShapeDtypeStruct((BATCH, FEATURES), jnp.float32, sharding=_rows(mesh))
    w = jax.ShapeDtypeStruct((BATCH,), jnp.float32, sharding=_rows(mesh))
    return _lower_step(graph, state, x, w)


def _lower_step(graph: Any, state: Any, x: jax.ShapeDtypeStruct, w: jax.ShapeDtypeStruct) -> jax.stages.Lowered:
    return Step(graph, jax.tree.map(lambda a: a.sharding, state)).lower(state, x, w)


def _ntv3(mesh: Mesh) -> jax.stages.Lowered:
    """The frozen encoder on one window: every device has its own, whole."""
    dtype = jnp.dtype("bfloat16")
    zeros = AskedTensors(lambda name, shape: np.zeros(shape, dtype), dtype, heads=False)  # only shapes matter here
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(NTV3_650M))
        graph, state = nnx.split(ntv3.NTv3("ntv3", Path(folder), dtype, zeros))
    one = SingleDeviceSharding(mesh.devices.flat[0])
    place = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=one)  # noqa: E731
    tokens, mask = (jax.ShapeDtypeStruct((1, WINDOW), dtype, sharding=one) for dtype in (jnp.int32, jnp.bool_))
    return ntv3._apply.lower(graph, jax.tree.map(place, state), tokens, mask, (2,))


def main(argv: list[str]) -> int:
    """Compile all or some and write the file; what it held of other programs, compiled by the same versions, stays."""
    parser = argparse.ArgumentParser(prog="python -m eval.tpu_compile", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/tpu-compile.json"), help="the file to write")
    parser.add_argument("--only", action="append", default=[], help="a program's name; may stand several times")
    options = parser.parse_args(argv)
    lowerings = programs(slice_mesh())
    if unknown := set(options.only) - set(lowerings):
        parser.error(f"--only {sorted(unknown)[0]!r} is not one of {', '.join(lowerings)}")
    versions = {"jax": jax.__version__, "libtpu": version("libtpu")}
    record: dict[str, Any] = {"slice": SLICE, "versions": versions, "programs": {}}
    if options.only and options.output.exists():
        old = json.loads(options.output.read_text())
        record["programs"] = old["programs"] if old["versions"] == versions else {}
    for name in options.only or lowerings:
        record["programs"][name] = account(lowerings[name]())
        print(name, json.dumps(record["programs"][name]), flush=True)
    record["programs"] = {name: record["programs"][name] for name in lowerings if name in record["programs"]}
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
