"""Several sessions and several threads at once: every answer right, no deadlock, nobody starved, whichever way the GPU is waited for."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import coexec
from coexec import settings
from coexec.api import random_feeds
from tests.test_smoke import tiny_model

from .random_graphs import random_model

SECONDS, THREADS = 2.0, 4


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("way", ["event", "poll", "flag"])
def test_threads_share_sessions(way, count):
    models = [tiny_model(), random_model(np.random.default_rng(3), 8), random_model(np.random.default_rng(10), 8)][:count]
    feeds = [[random_feeds(m, seed=seed) for seed in range(3)] for m in models]
    expected = []
    for model, given in zip(models, feeds):
        with coexec.InferenceSession(model, strategy="cpu") as alone:
            expected.append([alone.run(None, f) for f in given])
    with settings.override(wait=way):
        sessions = [coexec.InferenceSession(m, strategy="fixed:gpu=0.5") for m in models]
    done, failed = np.zeros((THREADS, count), int), []
    for session, given in zip(sessions, feeds):
        session.run(None, given[0])
    end = time.monotonic() + SECONDS

    def work(mine: int) -> None:
        rng = np.random.default_rng(mine)
        try:
            while time.monotonic() < end:
                which, case = int(rng.integers(count)), int(rng.integers(3))
                found = sessions[which].run(None, feeds[which][case])
                for a, b in zip(found, expected[which][case]):
                    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * max(1.0, float(np.abs(b).max(initial=0))))
                done[mine, which] += 1
        except BaseException as error:
            failed.append(error)

    team = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(THREADS)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join(60)
        assert not thread.is_alive(), "a deadlock"
    assert not failed, failed[0]
    assert not any(session.faults for session in sessions)
    runs = done.sum(1)
    assert runs.sum() > 20 and runs.min() > 0.5 * runs.mean(), runs
    for session in sessions:
        session.close()
