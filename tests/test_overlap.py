"""Overlapping runs: every result in its order, two at once, one compilation a shape, errors come through."""

import threading

import pytest

from covjax.encoders.embed import overlap


def test_every_result_in_order():
    found = list(overlap(lambda n: n * n, range(7), lambda n: (n % 3,)))
    assert found == [(n, n * n) for n in range(7)]


def test_two_run_at_once_after_the_first_of_a_shape_ran_alone():
    together = threading.Barrier(2)
    running, most = [], {}

    def run(item):
        running.append(item)
        most[item] = len(running)
        if item:  # the barrier breaks, and with it the test, unless another one comes to it
            together.wait(timeout=30)
        running.remove(item)
        return item

    assert [result for _, result in overlap(run, [0, 1, 2, 3, 4], lambda _: (1,))] == [0, 1, 2, 3, 4]
    assert most[0] == 1


def test_an_error_comes_through():
    def run(item):
        if item == 2:
            raise ValueError("two")
        return item

    results = overlap(run, [1, 2, 3], lambda _: (1,))
    assert next(results) == (1, 1)
    with pytest.raises(ValueError, match="two"):
        next(results)
