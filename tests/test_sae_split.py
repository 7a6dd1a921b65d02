"""TopK with its latents split over devices: the numbers of one device, and nothing large travels."""

import json

from tests.processes import launch


def test_split_latents_take_the_same_steps_and_move_candidates_only():
    """48 tokens, 24 features, 512 latents, k 5 and 8 over 2 × 4 devices: all pre-activations of 24 tokens are 49 kB."""
    (output,) = launch(["split_step", "6"], devices=8)
    assert "dead True equal True" in output
    assert "ties True" in output
    (line,) = [line for line in output.splitlines() if line.startswith("collectives")]
    found = json.loads(line.removeprefix("collectives "))
    assert found
    gathered = [size for kind, size in found if kind == "all-gather"]
    assert gathered
    assert max(gathered) <= 24 * 4 * 8 * 4  # a device's tokens × devices × their candidates
    assert "all-to-all" not in {kind for kind, _ in found}
    assert (
        max(size for kind, size in found if kind == "all-reduce") <= 2 * 128 * 24 * 4 + 2000
    )  # both gradients of 128 rows
