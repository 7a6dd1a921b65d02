"""The main programs compiled by XLA:TPU for eight devices, where libtpu (extra `tpu-compile`) is installed.

`JAX_PLATFORMS=cpu pytest -m slow tests/test_tpu_compile.py`, a minute or two. The quick tests read no TPU program.
"""

import importlib.util
import json

import pytest

from eval import tpu_compile
from tests.conftest import ROOT

DEVICES, GIB = 8, 2**30
SHARD = tpu_compile.TOKENS * tpu_compile.FEATURES * 2 // DEVICES  # bytes of X on one device
TEXT = """
  %all-reduce.2 = (f32[64,64]{1,0:T(8,128)S(1)}, f32[]{:T(128)}) all-reduce(%fusion, %reduce), channel_id=2
  %get-tuple-element.3 = f32[]{:T(128)} get-tuple-element(%all-reduce.2), index=1
  %ag = (bf16[2,8]{1,0:T(8,128)}, bf16[16,8]{1,0:T(8,128)}) all-gather-start(%p), dimensions={0}
  %done = bf16[16,8]{1,0} all-gather-done(%ag)
  %again = pred[16]{0} collective-permute(%q)
  %twice = pred[16]{0} collective-permute(%again)
"""


def test_collectives_are_read_with_their_bytes():
    expected = {("all-reduce", 4 * 64 * 64 + 4): 1, ("all-gather", 2 * 16 * 8): 1, ("collective-permute", 16): 2}
    assert tpu_compile.collectives(TEXT) == expected


def test_the_recorded_figures_hold_what_the_issue_asks():
    recorded = json.loads((ROOT / "docs" / "tpu-compile.json").read_text())["programs"]
    assert set(recorded) == set(tpu_compile.programs(None))
    check_projected(recorded["projected moment"])
    encoder = recorded[tpu_compile.NTV3]
    assert encoder["peak_bytes"] < 16e9  # of a v5e, beside its window
    assert encoder["collectives"] == []


def check_projected(found):
    assert [kind for kind, *_ in found["collectives"]] == ["all-reduce"]  # of C and the count: nothing as large as X
    assert found["collectives"][0][1] == 4 * tpu_compile.RANK**2 + 4
    assert SHARD < found["argument_bytes"] + found["temporary_bytes"] <= 1.1 * SHARD
    tokens, d, r = tpu_compile.TOKENS // DEVICES, tpu_compile.FEATURES, tpu_compile.RANK
    assert found["operations"] == pytest.approx(2 * tokens * r * (d + r), rel=0.01)


@pytest.fixture(scope="module")
def lowerings():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed (extra `tpu-compile`)")
    return tpu_compile.programs(tpu_compile.slice_mesh())


@pytest.mark.slow
def test_projected_moment(lowerings):
    check_projected(tpu_compile.account(lowerings["projected moment"]()))


@pytest.mark.slow
def test_whole_moment(lowerings):
    found = tpu_compile.account(lowerings["whole moment"]())
    assert [kind for kind, *_ in found["collectives"]] == ["all-reduce"]
    assert found["argument_bytes"] + found["temporary_bytes"] <= 1.1 * SHARD
    tokens, d = tpu_compile.TOKENS // DEVICES, tpu_compile.FEATURES
    assert found["operations"] == pytest.approx(2 * tokens * d * d, rel=0.01)


@pytest.mark.slow
def test_tucker_step(lowerings):
    found = tpu_compile.account(lowerings["Tucker step"]())
    assert [kind for kind, *_ in found["collectives"]] == ["all-reduce"]  # of the gradient and the figures
    assert (
        sum(size * count for _, size, count in found["collectives"]) < 2 * 4 * tpu_compile.FEATURES * tpu_compile.RANK
    )


@pytest.mark.slow
@pytest.mark.parametrize("sharded", ["tokens", "latents"])
def test_topk_step(lowerings, sharded):
    found = tpu_compile.account(lowerings[f"TopK step, {sharded} sharded"]())
    assert found["peak_bytes"] < 16 * GIB  # of a v5e
    parameters = 2 * 4 * tpu_compile.LATENTS * tpu_compile.FEATURES
    state = 3 * parameters // (DEVICES if sharded == "latents" else 1)
    assert found["argument_bytes"] == pytest.approx(state, rel=0.2)
    largest = max(size for _, size, _ in found["collectives"])
    if sharded == "latents":  # no encoder or decoder is put together anywhere
        assert largest < parameters / 2
    else:  # their gradients are
        assert largest == parameters / 2
