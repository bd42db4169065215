"""Worker processes of the kit: used for stage after stage, and what happens when a stage raises or a process dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from histrio.errors import BackendError
from histrio.testing.chain import StageChain
from histrio.testing.conformance.array_laws import ARRAY_LAWS
from histrio.testing.conformance.hosts import LocalHost
from histrio.testing.conformance.kit import KitModel
from histrio.testing.conformance.remote import RemoteHost, WorkerPool
from histrio.testing.models import VOCAB_SIZE
from histrio.testing.toy import ToyFactory, toy_continuation, write_toy_model
from histrio.testing.wait import eventually

PROMPT = [5, 6, 7, 8, 9, 10]
EXPECTED = toy_continuation(PROMPT, 5, num_layers=4, vocab_size=VOCAB_SIZE)


@pytest.fixture
def model(tmp_path: Path) -> KitModel:
    return KitModel("toy", write_toy_model(tmp_path / "toy"), 4, VOCAB_SIZE)


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool() as running:
        yield running


def pids() -> set[int]:
    """Workers among this process's children."""
    return {
        child.pid for child in psutil.Process().children() if "histrio.testing.conformance.worker" in child.cmdline()
    }


def test_a_worker_opens_stage_after_stage(model: KitModel, pool: WorkerPool) -> None:
    used = []
    for cuts in [(1,), (), (2,), (3,)]:
        chain = StageChain(ToyFactory(), model.folder, cuts, workers=pool)
        assert chain.greedy(PROMPT, 5) == EXPECTED
        assert chain.greedy(PROMPT[1:], 5) != EXPECTED, "a control: another prompt"
        chain.close()
        chain.close()
        used.append(pids())

    assert len(used[0]) == 2
    assert used == [used[0]] * 4


def test_a_remote_host_says_what_a_local_one_says(model: KitModel, pool: WorkerPool) -> None:
    hosts: list[LocalHost | RemoteHost] = [
        LocalHost(ToyFactory(), model.spec()),
        RemoteHost(ToyFactory(), model.spec(), pool),
    ]
    values = np.random.default_rng(1).standard_normal((3, 37)).astype(np.float32)
    capacities = [host.open() for host in hosts]
    for name in ARRAY_LAWS:
        here, there = (host.computed(name, values.copy()) for host in hosts)
        np.testing.assert_array_equal(here, there)

    assert capacities[0] == capacities[1]
    assert hosts[0].progress() == hosts[1].progress() == [1.0]
    for host in hosts:
        host.close()


def test_what_a_stage_raises_arrives_with_its_place_and_the_worker_goes_on(model: KitModel, pool: WorkerPool) -> None:
    before = pids()
    host = RemoteHost(ToyFactory(), model.spec(options={"warp": 1}), pool)
    with pytest.raises(BackendError, match="warp") as caught:
        host.open()
    host.close()
    assert "worker.py" in "".join(caught.value.__notes__)

    chain = StageChain(ToyFactory(), model.folder, (), workers=pool)
    assert chain.greedy(PROMPT, 5) == EXPECTED
    chain.close()
    assert pids() == before, "no other worker was needed"


def test_a_worker_that_dies_is_told_of_and_replaced(model: KitModel) -> None:
    others = pids()
    with WorkerPool() as pool:
        chain = StageChain(ToyFactory(), model.folder, (), workers=pool)
        (victim,) = pids() - others
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(BackendError, match="ended with -9"):
            chain.greedy(PROMPT, 5)
        chain.close()

        chain = StageChain(ToyFactory(), model.folder, (), workers=pool)
        assert chain.greedy(PROMPT, 5) == EXPECTED
        chain.close()


def test_closing_the_pool_ends_every_worker(model: KitModel) -> None:
    others = pids()
    pool = WorkerPool(most_idle=1)
    chains = [StageChain(ToyFactory(), model.folder, (), workers=pool) for _ in range(3)]
    assert len(pids() - others) == 3
    for chain in chains[:2]:
        chain.close()
    eventually(lambda: len(pids() - others) == 2)
    pool.close()
    pool.close()
    assert pids() == others
