"""Places in the model, and the queue before it."""

import threading
import time

import pytest

from pergola.serving.server.config.errors import DeadlineExpired, Overloaded
from pergola.serving.server.core.limiter import Limiter


def test_a_request_too_many_is_refused_at_once():
    limiter = Limiter(1, 1)
    with limiter.slot():
        waiting = threading.Thread(target=lambda: limiter.slot(5).__enter__())
        waiting.start()
        time.sleep(0.05)
        started = time.monotonic()
        with pytest.raises(Overloaded), limiter.slot(5):
            pass
        assert time.monotonic() - started < 0.05
    waiting.join(5)


def test_waiting_ends_at_the_deadline_and_gives_the_place_back():
    limiter = Limiter(1, 1)
    with limiter.slot():
        for _ in range(3):
            with pytest.raises(DeadlineExpired), limiter.slot(0.01):
                pass
    with limiter.slot(0.01):
        pass


def test_places_are_given_back_after_errors():
    limiter = Limiter(1, 0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), limiter.slot():
            raise ZeroDivisionError


def test_never_more_run_than_allowed():
    limiter, inside, most, lock = Limiter(2, 100), 0, 0, threading.Lock()

    def work():
        nonlocal inside, most
        with limiter.slot():
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.005)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2
