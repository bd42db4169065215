"""Blocks and slots: the core says which row owns them, and no row depends on what they held before."""

from __future__ import annotations

import msgspec

from histrio.contracts.backend import Capability
from histrio.testing.chain import ChainRow, StageChain
from histrio.testing.conformance.compare import assert_differs, assert_same
from histrio.testing.conformance.kit import needs
from histrio.testing.conformance.replay import Replay, Trace, feed, make_trace, play, replay
from histrio.testing.conformance.subject import StageSubject, prompt


def branches(subject: StageSubject, num_common_tokens: int) -> tuple[Trace, Trace]:
    """Undisturbed runs of two prompts that begin alike."""
    common = prompt(subject.model.vocab_size, num_common_tokens, seed=21)
    ends = [prompt(subject.model.vocab_size, 3, seed=seed) for seed in (22, 23)]
    one, two = (make_trace(subject.reference, common + end, num_tokens=5) for end in ends)
    return one, two


def dirtied(subject: StageSubject) -> StageChain:
    """A chain all of whose slots, and many of whose blocks, have been used and left."""
    chain = subject.middle()
    traces = [subject.trace(3 * subject.block_size, seed=30 + row, num_tokens=2) for row in range(subject.num_rows)]
    play(chain, [Replay(trace, slot) for slot, trace in enumerate(traces)])
    return chain


def alone(chain: StageChain, row: ChainRow) -> None:
    """Compute one row without sampling."""
    assert chain.step([ChainRow(row.slot, row.ids, 0)]) is None


def test_reused_blocks_and_slots_show_nothing_of_their_past(subject: StageSubject) -> None:
    """After two different pasts, as the undisturbed run may have had one of them."""
    chain = subject.chain()
    short = subject.trace(3, seed=32)
    for seed in (30, 31):
        long = subject.trace(3 * subject.block_size, seed=seed, num_tokens=2)
        assert_same(replay(chain, long), long.logits, "a long sequence")
        assert_same(replay(chain, short), short.logits, "a short one in its blocks")
    assert_differs(replay(chain, subject.trace(3, seed=33)), short.logits, "another prompt")


@needs(Capability.BATCH)
def test_many_rows_in_used_blocks_and_slots_show_nothing_of_their_past(subject: StageSubject) -> None:
    traces = subject.traces(subject.num_rows)
    chain = dirtied(subject)
    results = play(chain, [Replay(trace, slot) for slot, trace in enumerate(traces)])

    for index, (got, trace) in enumerate(zip(results, traces, strict=True)):
        assert_same(got, trace.logits, f"row {index} in used blocks")
    assert_differs(results[0], traces[1].logits, "the result of another row")


@needs(Capability.BATCH)
def test_closing_a_slot_leaves_the_others_alone(subject: StageSubject) -> None:
    staying, leaving = subject.trace(subject.block_size + 3, seed=34), subject.trace(7, seed=35)
    chain = subject.middle()
    stays, leaves = Replay(staying, 1), Replay(leaving, 0)
    feed(chain, [stays, leaves])
    chain.leave(0)
    entering = Replay(subject.trace(subject.block_size + 9, seed=36), 0)
    results = play(chain, [stays, entering])

    assert_same(results[0], staying.logits, "a row beside a slot that was closed and taken again")
    assert_same(results[1], entering.trace.logits, "a row in a slot that was closed")
    assert_differs(results[0], leaving.logits, "the result of the row that left")


def test_a_cancelled_prompt_leaves_no_trace(subject: StageSubject) -> None:
    cancelled, next_one = subject.trace(3 * subject.block_size, seed=37), subject.trace(2 * subject.block_size, seed=38)
    chain = subject.middle()
    alone(chain, ChainRow(0, cancelled.prompt[: 2 * subject.block_size + 1]))
    chain.leave(0)

    assert_same(replay(chain, next_one), next_one.logits, "a prompt after one that was cancelled half-way")
    assert_differs(replay(chain, cancelled), next_one.logits, "another prompt")


def test_a_start_at_0_is_a_new_sequence_even_in_an_open_slot(subject: StageSubject) -> None:
    one, two = subject.trace(9, seed=39), subject.trace(subject.block_size + 2, seed=40)
    chain = subject.middle()
    feed(chain, [Replay(one, 0)])
    chain.rewind(0, 0)

    assert_same(play(chain, [Replay(two, 0)])[0], two.logits, "a sequence that took a slot that was not closed")
    assert_differs(replay(chain, one), two.logits, "another prompt")


def test_a_new_epoch_forgets_everything_and_computes_the_same(subject: StageSubject) -> None:
    trace, other = subject.trace(subject.block_size + 5, seed=41), subject.trace(2 * subject.block_size, seed=42)
    chain = subject.middle()
    usual = chain.size
    alone(chain, ChainRow(0, other.prompt))
    chain.restart()
    assert_same(replay(chain, trace), trace.logits, "after allocating the same again")

    chain.restart(msgspec.structs.replace(usual, num_blocks=usual.num_blocks // 2, max_slots=1))
    assert_same(replay(chain, trace), trace.logits, "after allocating less")
    chain.restart(usual)
    assert_same(replay(chain, trace), trace.logits, "after allocating as at first")
    assert_differs(replay(chain, other)[: len(trace.logits)], trace.logits, "another prompt")


@needs(Capability.PREFIX_SHARE)
def test_full_blocks_of_a_sequence_that_left_serve_another(subject: StageSubject) -> None:
    block = subject.block_size
    one, two = branches(subject, 2 * block)
    chain = subject.middle()
    right = computed_and_left(chain, one.prompt)
    chain.share(right[:2], 0, 2 * block)
    (got,) = play(chain, [Replay(two, 0, num_fed=2 * block)])
    assert_same(got, two.logits, "a sequence on the blocks of one that left")

    wrong = computed_and_left(chain, subject.trace(2 * block, seed=24).prompt)
    chain.share(wrong[:2], 0, 2 * block)
    (got,) = play(chain, [Replay(two, 0, num_fed=2 * block)])
    assert_differs(got, two.logits, "blocks of another beginning")


def computed_and_left(chain: StageChain, ids: list[int]) -> list[int]:
    """The blocks of a sequence that was computed in slot 0, and closed; they are not dealt to others."""
    alone(chain, ChainRow(0, ids))
    blocks = chain.tables[0]
    chain.keep(blocks)
    chain.leave(0)
    return blocks


@needs(Capability.PREFIX_SHARE, Capability.BATCH)
def test_running_rows_share_their_first_blocks(subject: StageSubject) -> None:
    block = subject.block_size
    one, two = branches(subject, 2 * block)
    chain = subject.middle()
    first, second = Replay(one, 0), Replay(two, 1, num_fed=2 * block)
    feed(chain, [first])
    chain.share(chain.tables[0][:2], 1, 2 * block)
    results = play(chain, [first, second])

    assert_same(results[0], one.logits, "the row that computed the blocks")
    assert_same(results[1], two.logits, "the row that reads them")
    assert_differs(results[1], one.logits, "the result of the other row")


@needs(Capability.COPY_BLOCKS, Capability.PREFIX_SHARE, Capability.BATCH)
def test_a_copied_block_goes_its_own_way(subject: StageSubject) -> None:
    """Two sequences part within a block: one goes on in the block, the other in a copy of it."""
    block = subject.block_size
    common = block + block // 2
    one, two = branches(subject, common)
    chain = subject.middle()
    assert_part(chain, one, two, common)

    alone(chain, ChainRow(0, one.prompt))
    alone(chain, ChainRow(1, subject.trace(2 * block, seed=24).prompt))
    chain.share([chain.tables[0][0], chain.tables[1][1]], 2, common)
    (uncopied,) = play(chain, [Replay(two, 2, num_fed=common)])
    assert_differs(uncopied, two.logits, "a block of another sequence in place of the copy")


def assert_part(chain: StageChain, one: Trace, two: Trace, common: int) -> None:
    """Their `common` first tokens are computed once, in slot 0; then they part within the second block."""
    first, second = Replay(one, 0, common), Replay(two, 1, num_fed=common)
    feed(chain, [first])
    full, partial = chain.tables[0]
    chain.share([full, chain.copy(partial)], 1, common)
    results = play(chain, [first, second])
    assert_same(results[0], one.logits, "the row that kept the block")
    assert_same(results[1], two.logits, "the row that took the copy")


@needs(Capability.COPY_BLOCKS, Capability.PREFIX_SHARE, Capability.BATCH)
def test_a_start_on_a_living_stage_forgets_everything(subject: StageSubject) -> None:
    """Sequences that run, the blocks that they have, and copies made since the last step, whatever size comes next."""
    common = subject.block_size + subject.block_size // 2
    one, two = branches(subject, common)
    chain = subject.middle()
    usual = chain.size
    for size in (usual, msgspec.structs.replace(usual, num_blocks=usual.num_blocks // 2), usual):
        leave_running(chain, subject)
        chain.restart(size)
        assert_part(chain, one, two, common)

    leave_running(chain, subject)
    chain.leave(1)
    chain.share(chain.tables[0][:2], 1, common)
    (got,) = play(chain, [Replay(two, 1, num_fed=common)])
    assert_differs(got, two.logits, "blocks of a sequence that was running before")


def leave_running(chain: StageChain, subject: StageSubject) -> None:
    """Every slot in the midst of a sequence, and the last block of each just copied."""
    traces = [subject.trace(3 * subject.block_size, seed=50 + row, num_tokens=2) for row in range(subject.num_rows)]
    feed(chain, [Replay(trace, slot) for slot, trace in enumerate(traces)])
    for slot in range(subject.num_rows):
        chain.copy(chain.tables[slot][-1])
