"""Overlapping runs: every result in its order, two at once, one compilation a shape, errors come through."""

import threading

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from covjax.activations import ArrayTokens
from covjax.embedding.fitted import fit_recipe
from covjax.encoders.embed import overlap, shared_threads
from covjax.recipes import get_recipe


def test_every_result_in_order():
    results = list(overlap(lambda n: n * n, range(7), lambda n: (n % 3,)))
    assert results == [(n, n * n) for n in range(7)]


def test_two_run_at_once_once_the_first_of_their_shape_is_finished():
    together = threading.Barrier(2)
    too_early = {0: threading.Event(), 3: threading.Event()}  # by the first item of each of two shapes

    def run(item):
        for first, event in too_early.items():
            if item > first:
                event.set()
        if item in too_early:
            assert not too_early[item].wait(timeout=0.3), f"another began while {item} ran"
        else:  # the barrier breaks, and with it the test, unless another one comes to it
            together.wait(timeout=30)
        return item

    assert [result for _, result in overlap(run, range(6), lambda n: (n >= 3,))] == [0, 1, 2, 3, 4, 5]


def test_an_error_comes_through():
    def run(item):
        if item == 2:
            raise ValueError("two")
        return item

    results = overlap(run, [1, 2, 3], lambda _: (1,))
    assert next(results) == (1, 1)
    with pytest.raises(ValueError, match="two"):
        next(results)


def threads_of() -> dict[str, int]:
    """Threads of every linear algebra library, by whose it is."""
    return {"NumPy" if "numpy" in each.filepath else "SciPy": each.num_threads for each in blas()}


def blas():
    return ThreadpoolController().select(user_api="blas").lib_controllers


def test_jobs_share_the_threads_of_linear_algebra_and_give_them_back():
    import scipy.linalg  # noqa: F401  its library is there

    with threadpool_limits(6, "blas"):
        before = threads_of()
        with shared_threads(2):
            assert threads_of() == {name: max(count // 2, 1) for name, count in before.items()}
            with shared_threads(100, numpy=False):
                assert threads_of() == {name: before[name] // 2 if name == "NumPy" else 1 for name in before}
        assert threads_of() == before
        with pytest.raises(ValueError, match="stop"), shared_threads(2):
            raise ValueError("stop")
        assert threads_of() == before


def test_contexts_may_end_in_any_order():
    import scipy.linalg  # noqa: F401  its library is there

    with threadpool_limits(6, "blas"):
        before = threads_of()
        first, second = shared_threads(2), shared_threads(3)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert threads_of() == {name: max(count // 3, 1) for name, count in before.items()}
        second.__exit__(None, None, None)
        assert threads_of() == before


def test_batches_are_pooled_with_shared_threads(tmp_path, monkeypatch):
    """Two batches run at once, each with half of the threads of eigendecompositions."""
    seen = []
    tokens = ArrayTokens([np.ones((3, 2), np.float32) * i for i in range(4)], token_budget=6)
    fitted = fit_recipe(get_recipe("covariance"), tokens, np.arange(4), 0, tmp_path, {})

    def share(jobs, numpy):
        seen.append((jobs, numpy))
        return threadpool_limits(1, "blas")

    monkeypatch.setattr("covjax.embedding.passes.shared_threads", share)
    fitted.transform(tokens)
    assert seen == [(2, False)]
