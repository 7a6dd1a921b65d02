"""Overlapping runs: every result in its order, two at once, one compilation a shape, errors come through."""

import threading

import pytest

from covjax.encoders.embed import overlap


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
