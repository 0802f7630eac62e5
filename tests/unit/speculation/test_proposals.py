"""What a stage makes of proposals: queueing, acknowledging, waiting."""

from specrouter_dist.speculation.messages import EdgeId, Truth
from tests.unit.speculation.handwritten import (
    EAGER,
    LOCK_STEP,
    UP,
    middle,
    new_stage,
    proposals,
    queue_of,
    step,
    stream_of,
    truth,
    verifier,
)


class TestProposals:
    def test_those_that_cross_a_truth_are_queued_where_they_fit(self) -> None:
        stage = verifier()
        stage.on_proposals(proposals([1, 2, 3, 4, 5], 2, version=1))
        assert queue_of(stage) == [4, 5], "3 was drawn meanwhile"

    def test_those_that_contradict_the_own_tokens_are_dropped(self) -> None:
        stage = verifier()
        stage.on_proposals(proposals([1, 2, 8, 4, 5], 2, version=1))
        assert queue_of(stage) == []

    def test_those_on_another_prefix_are_dropped(self) -> None:
        stage = verifier()
        stage.on_proposals(proposals([1, 2, 8, 4, 5], 3, version=2))
        assert queue_of(stage) == []

    def test_those_after_a_gap_are_dropped(self) -> None:
        stage = verifier()
        stage.on_proposals(proposals([1, 2, 3, 4, 5], 4, version=2))
        assert queue_of(stage) == []

    def test_those_of_another_edge_are_dropped(self) -> None:
        stage = verifier()
        stage.attach_upstream(EdgeId(1, 2, 10), LOCK_STEP)
        stage.on_proposals(proposals([1, 2, 3, 4, 5], 3, version=2))
        assert queue_of(stage) == []

    def test_a_run_ahead_sent_again_is_queued_once(self) -> None:
        stage = verifier()
        stage.on_proposals(proposals([1, 2, 3, 4, 5], 3, version=2))
        stage.on_proposals(proposals([1, 2, 3, 4, 5, 6], 3, version=2))
        assert queue_of(stage) == [4, 5, 6]

    def test_a_doubled_frame_after_a_rollback_is_dropped(self) -> None:
        stage = middle()
        frame = proposals([1, 2, 3, 4, 5], 3, version=1)
        stage.on_proposals(frame)
        stage.on_truth(truth(2, 3, [7], limit=20))
        stage.on_proposals(frame)
        assert queue_of(stage) == []

    def test_nothing_is_queued_beyond_the_granted_limit(self) -> None:
        stage = verifier()
        stage.on_proposals(proposals([1, 2, 3, 4, 5, 6, 7, 8, 9], 3, version=2))
        assert queue_of(stage) == [4, 5, 6, 7]

    def test_a_cut_takes_back_the_limit_at_once(self) -> None:
        stage = middle()
        for pick in (4, 5, 6):
            step(stage, pick)
        stage.flush()
        stage.on_truth(truth(2, 3, [8], limit=20))
        stage.on_proposals(proposals([1, 2, 3, 8, *range(10)], 4, version=2))
        assert len(stage.tokens) + len(queue_of(stage)) <= 3 + EAGER.window
        [message] = [m for m in stage.flush() if isinstance(m, Truth)]
        assert message.limit == 4 + EAGER.window

    def test_of_contradicting_frames_the_one_that_saw_the_newer_truth_stands(self) -> None:
        stage = verifier(EAGER)
        stage.on_proposals(proposals([1, 2, 3, 4, 5], 3, version=1))
        stage.on_proposals(proposals([1, 2, 3, 4, 6], 3, version=2))
        assert queue_of(stage) == [4, 6]
        stage.on_proposals(proposals([1, 2, 3, 4, 5], 3, version=1))
        assert queue_of(stage) == [4, 6]

    def test_a_stale_frame_in_an_empty_queue_gives_way_to_a_newer_one(self) -> None:
        stage = verifier(EAGER)
        stage.on_proposals(proposals([1, 2, 3, 4], 3, version=2))
        assert step(stage, 4, 5) == [4, 5]
        stage.on_proposals(proposals([1, 2, 3, 4, 5, 6], 5, version=1))
        stage.on_proposals(proposals([1, 2, 3, 4, 5, 7], 5, version=2))
        assert queue_of(stage) == [7]

    def test_they_never_change_the_stream(self) -> None:
        stage = verifier()
        stage.on_proposals(proposals([1, 2, 3, 4, 5], 3, version=2))
        assert stream_of(stage) == [1, 2, 3]


class TestAcknowledging:
    def test_a_truth_begins_where_the_upstream_is_known_to_agree(self) -> None:
        stage = verifier(EAGER)
        stage.on_proposals(proposals([1, 2, 3, 4], 3, version=2, ack=3))
        step(stage, 4, 5)
        [message] = stage.flush()
        assert isinstance(message, Truth)
        assert (message.base, message.tokens.tolist()) == (3, [4, 5])

    def test_one_of_an_older_version_does_not_count_after_a_cut(self) -> None:
        stage = middle()
        step(stage, 4)
        step(stage, 5)
        stage.flush()
        late = proposals([1, 2, 3, 4, 5, 6], 5, version=2, ack=5)
        stage.on_truth(truth(2, 3, [8], limit=20))
        stage.on_proposals(late)
        stage.on_truth(truth(3, 3, [8, 9, 10], limit=20))
        message = next(m for m in stage.flush() if isinstance(m, Truth))
        assert message.base <= 3, "the upstream has 4 at position 3, we have 8"


class TestWaiting:
    def test_the_first_token_never_waits(self) -> None:
        stage = new_stage()
        stage.attach_upstream(UP, LOCK_STEP)
        assert stage.next_step() is not None

    def test_the_second_does_until_patience_is_met(self) -> None:
        stage = verifier()
        assert stage.next_step() is None
        assert stage.wait_ms == LOCK_STEP.patience_ms
        stage.on_proposals(proposals([1, 2, 3, 4, 5, 6], 3, version=2))
        assert stage.next_step() is None
        stage.on_proposals(proposals([1, 2, 3, 4, 5, 6, 7], 3, version=2))
        assert stage.next_step() is not None
        assert stage.wait_ms is None

    def test_patience_is_capped_by_what_the_request_still_needs(self) -> None:
        stage = verifier(end=6)
        stage.on_proposals(proposals([1, 2, 3, 4], 3, version=2))
        assert stage.next_step() is None
        stage.on_proposals(proposals([1, 2, 3, 4, 5], 3, version=2))
        assert stage.next_step() is not None, "two proposals and the bonus are all it needs"

    def test_that_nothing_follows_ends_the_wait(self) -> None:
        stage = verifier()
        stage.on_proposals(proposals([1, 2, 3, 4], 3, version=2, more=False))
        assert stage.wait_ms is None
        assert stage.next_step() is not None

    def test_that_nothing_followed_an_older_truth_does_not(self) -> None:
        stage = verifier()
        stage.on_proposals(proposals([1, 2], 2, version=1, more=False))
        assert stage.next_step() is None

    def test_that_nothing_followed_a_stream_since_changed_does_not(self) -> None:
        stage = verifier()
        stage.on_deadline()
        step(stage, 4)
        stage.on_proposals(proposals([1, 2, 3], 3, version=2, more=False))
        assert stage.next_step() is None, "the Truth with the 4 is not even sent"

    def test_a_lost_upstream_ends_it(self) -> None:
        stage = verifier()
        stage.detach_upstream()
        assert stage.wait_ms is None
        assert stage.next_step() is not None

    def test_a_missed_deadline_ends_this_wait_only(self) -> None:
        stage = verifier()
        stage.on_deadline()
        assert step(stage, 4) == [4]
        assert stage.next_step() is None

    def test_after_two_missed_deadlines_there_is_none_until_proposals_come(self) -> None:
        stage = verifier()
        for pick in (4, 5):
            stage.on_deadline()
            step(stage, pick)
        for pick in (6, 7, 8):
            assert step(stage, pick) == [pick]
        stage.on_proposals(proposals([1, 2, 3], 3, version=2))
        assert stage.next_step() is None
