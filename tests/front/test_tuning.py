"""Bounds of steps that change while it runs hold for replicas to come too."""

from __future__ import annotations

import pytest

from histrio.actors.refs import BATCHING
from histrio.contracts.gateway import ServedModel
from histrio.contracts.request_fields import FieldTable
from histrio.front.admission import AdmissionActor
from histrio.front.requests import RequestTable
from histrio.messages import Message, ReplicaDown, ReplicaSize, ReplicaUp, Tune

SIZE = ReplicaSize(num_blocks=8, block_size=4, max_slots=2, max_step_tokens=64, max_sequence_length=32)


class Front:
    """Admission alone, and what it tells batching of its bounds."""

    def __init__(self, engine: str = "") -> None:
        self.told: list[Message] = []
        model = ServedModel("toy", "/", 0, "Toy", 2, 258, 32, engine=engine)
        self.admission = AdmissionActor(self._tell, model, RequestTable(4), FieldTable([]))

    def _tell(self, name: str, message: Message) -> None:
        if isinstance(message, Tune):
            assert name == BATCHING
            self.told.append(message)


def test_every_replica_is_told_what_changed_since_the_start() -> None:
    front = Front()
    front.admission.tune(Tune(max_batch_size=3))
    assert not front.told, "there is no replica yet"
    front.admission.receive(ReplicaUp(0, 1, SIZE))
    front.admission.tune(Tune(scheduler_wait_ms=50))
    front.admission.receive(ReplicaDown(0, "it broke"))
    front.admission.receive(ReplicaUp(0, 2, SIZE))
    assert front.told == [Tune(3), Tune(3, 50), Tune(3, 50)]


@pytest.mark.parametrize(("engine", "tuning"), [("vllm", Tune(3)), ("", Tune())])
def test_nothing_is_told_where_nothing_can_change_or_nothing_did(engine: str, tuning: Tune) -> None:
    front = Front(engine)
    front.admission.tune(tuning)
    front.admission.receive(ReplicaUp(0, 1, SIZE))
    assert not front.told
