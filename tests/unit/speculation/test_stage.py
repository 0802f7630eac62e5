"""Steps, and Truths that come before, during and after them."""

from array import array

from specrouter_dist.speculation.messages import EdgeId, Proposals, Truth
from tests.unit.speculation.handwritten import (
    EAGER,
    STOP,
    middle,
    new_stage,
    proposals,
    queue_of,
    step,
    stream_of,
    truth,
    verifier,
)


class TestVerifying:
    def test_accepted_proposals_and_a_bonus_extend_the_stream(self) -> None:
        stage = verifier()
        stage.on_proposals(proposals([1, 2, 3, 4, 5, 6, 7], 3, version=2))
        assert step(stage, 4, 5, 6, 7, 8) == [4, 5, 6, 7, 8]
        assert (stage.kv_len, len(stage.tokens)) == (7, 8)

    def test_a_mismatch_keeps_the_models_own_token_and_drops_what_follows(self) -> None:
        stage = verifier()
        stage.on_proposals(proposals([1, 2, 3, 4, 5, 6, 7], 3, version=2))
        assert step(stage, 4, 9, 6, 7, 8) == [4, 9]
        assert stage.kv_len == 4
        assert queue_of(stage) == []

    def test_a_stop_inside_a_block_ends_the_stream_there(self) -> None:
        stage = verifier()
        stage.on_proposals(proposals([1, 2, 3, 4, STOP, 6, 7], 3, version=2))
        assert step(stage, 4, STOP, 6, 7, 8) == [4, STOP]
        assert stage.finished
        assert stage.next_step() is None
        assert stage.counts.histograms == {4: [0, 0, 1, 0, 0]}

    def test_the_last_wanted_position_ends_the_stream(self) -> None:
        stage = verifier(EAGER, end=5)
        stage.on_proposals(proposals([1, 2, 3, 4, 5, 6], 3, version=2))
        started = stage.next_step()
        assert started is not None
        assert started.tokens.tolist() == [3, 4], "one proposal and the bonus fill the request"
        assert stage.on_step_done(array("I", [4, 5])).tolist() == [4, 5]
        assert stage.finished

    def test_one_step_is_in_flight_at_a_time(self) -> None:
        stage = new_stage()
        assert stage.next_step() is not None
        assert stage.next_step() is None

    def test_a_long_prompt_is_fed_in_chunks_that_end_at_multiples(self) -> None:
        stage = new_stage(range(10), chunk_tokens=4)
        fed = []
        for picks in ([], [], [50]):
            started = stage.next_step()
            assert started is not None
            fed.append((started.start, len(started.tokens), started.num_picks))
            stage.on_step_done(array("I", picks))
        assert fed == [(0, 4, 0), (4, 4, 0), (8, 2, 1)]
        assert stage.counts.rounds == 1

    def test_a_drafter_never_draws_beyond_its_limit(self) -> None:
        stage = new_stage(max_drafts=16)
        stage.attach_downstream(truth(1, 0, [1, 2], limit=5), end=100)
        started = stage.next_step()
        assert started is not None
        assert started.num_drafts == 2
        assert stage.on_step_done(array("I", [3, 4, 5])).tolist() == [3, 4, 5]
        assert stage.next_step() is None

    def test_a_drafter_draws_block_by_block_ahead_of_what_is_settled(self) -> None:
        stage = new_stage(max_drafts=16)
        stage.block_tokens = 3
        stage.attach_downstream(truth(1, 0, [1, 2], limit=9), end=100)
        drawn = []
        for _ in range(3):
            started = stage.next_step()
            assert started is not None
            drawn.append(started.num_drafts + 1)
            stage.on_step_done(array("I", range(3, 3 + drawn[-1])))
        assert drawn == [3, 3, 1]
        # Two tokens of its run-ahead stand: one more completes the block.
        stage.on_truth(truth(2, 2, [3, 4, 5, 3, 4], limit=12))
        assert len(stage.tokens) - stage.settled == 2
        started = stage.next_step()
        assert started is not None
        assert started.num_drafts == 0

    def test_a_middle_stage_sends_whole_blocks(self) -> None:
        stage = middle()
        stage.block_tokens = 3
        for token in (4, 5):
            step(stage, token)
            assert [m for m in stage.flush() if isinstance(m, Proposals)] == []
        step(stage, 6)
        sent = [m for m in stage.flush() if isinstance(m, Proposals)]
        assert [m.tokens.tolist() for m in sent] == [[4, 5, 6]]

    def test_what_cannot_become_a_whole_block_is_sent_as_it_is(self) -> None:
        stage = middle()
        stage.block_tokens = 3
        step(stage, STOP)
        sent = [m for m in stage.flush() if isinstance(m, Proposals)]
        assert [(m.tokens.tolist(), m.more) for m in sent] == [([STOP], False)]


class TestTruthsDuringAStep:
    def test_picks_stand_when_the_truth_agrees_with_what_was_fed(self) -> None:
        stage = middle()
        stage.on_proposals(proposals([1, 2, 3, 4, 5, 6], 3, version=1))
        assert stage.next_step() is not None
        stage.on_truth(truth(2, 3, [4, 5], limit=20))
        assert stage.on_step_done(array("I", [4, 5, 6, 7])).tolist() == [6, 7]
        assert stream_of(stage) == [1, 2, 3, 4, 5, 6, 7]
        assert stage.kv_len == 6

    def test_picks_after_a_difference_are_discarded_and_the_common_cache_stays(self) -> None:
        stage = middle()
        stage.on_proposals(proposals([1, 2, 3, 4, 5, 6], 3, version=1))
        assert stage.next_step() is not None
        stage.on_truth(truth(2, 3, [4, 9], limit=20))
        assert stage.on_step_done(array("I", [4, 5, 6, 7])).tolist() == []
        assert stream_of(stage) == [1, 2, 3, 4, 9]
        assert stage.kv_len == 4

    def test_a_cut_below_what_was_fed_discards_the_whole_step(self) -> None:
        stage = middle()
        step(stage, 4)
        step(stage, 5)
        assert stage.next_step() is not None
        stage.on_truth(truth(2, 3, [8, 9], limit=20))
        assert stage.on_step_done(array("I", [6])).tolist() == []
        assert stream_of(stage) == [1, 2, 3, 8, 9]
        assert stage.kv_len == 3

    def test_a_stream_cut_and_restored_shorter_takes_no_pick_of_a_later_position(self) -> None:
        stage = new_stage()
        stage.attach_downstream(truth(1, 0, [1, 2, 3, 4, 5], limit=20), end=100)
        started = stage.next_step()
        assert started is not None and started.tokens.tolist() == [1, 2, 3, 4, 5]
        stage.on_truth(truth(2, 0, [1, 2, 9], limit=20))
        stage.on_truth(truth(3, 0, [1, 2, 3], limit=20))
        assert stage.on_step_done(array("I", [6])).tolist() == [], "6 follows 5, not 3"
        assert stage.kv_len == 2

    def test_a_chunk_of_the_prompt_is_no_round_whatever_truth_comes(self) -> None:
        stage = new_stage([1, 2], chunk_tokens=4)
        stage.attach_downstream(truth(1, 0, [1, 2, 3, 4, 5, 6], limit=20), end=100)
        assert stage.next_step() is not None
        stage.on_truth(truth(2, 0, [1, 2, 9], limit=20))
        stage.on_truth(truth(3, 0, [1, 2, 3], limit=20))
        stage.on_step_done(array("I"))
        assert stage.counts.rounds == 0


class TestFollowing:
    def test_a_run_ahead_that_agrees_stands_and_is_sent_again(self) -> None:
        stage = new_stage(max_drafts=4)
        stage.attach_downstream(truth(1, 0, [1, 2], limit=6), end=100)
        step(stage, 3, 4, 5, 6)
        stage.flush()
        stage.on_truth(truth(2, 2, [3, 4], limit=8))
        [message] = stage.flush()
        assert isinstance(message, Proposals)
        assert (message.start, message.ack, message.tokens.tolist()) == (4, 4, [5, 6])
        assert stage.kv_len == 5

    def test_the_newest_truth_replaces_the_others(self) -> None:
        stage = middle()
        stage.on_truth(truth(3, 3, [7, 8], limit=20))
        stage.on_truth(truth(2, 3, [4], limit=9))
        assert stream_of(stage) == [1, 2, 3, 7, 8]

    def test_a_truth_of_another_edge_is_from_the_past(self) -> None:
        stage = middle()
        stage.on_truth(Truth(EdgeId(1, 1, 99), 9, 3, array("I", [7]), 20))
        assert stream_of(stage) == [1, 2, 3]

    def test_a_changed_stream_is_told_upstream_once_a_tick(self) -> None:
        stage = middle()
        stage.on_truth(truth(2, 3, [7], limit=20))
        stage.on_truth(truth(3, 3, [7, 8], limit=20))
        messages = [m for m in stage.flush() if isinstance(m, Truth)]
        assert [(m.version, m.base, m.tokens.tolist()) for m in messages] == [
            (3, 0, [1, 2, 3, 7, 8])
        ]
        assert stage.flush() == []

    def test_a_stop_reached_by_the_own_model_is_taken_back_by_a_truth(self) -> None:
        stage = middle()
        step(stage, STOP)
        assert stage.finished
        stage.on_truth(truth(2, 3, [4], limit=20))
        assert not stage.finished

    def test_a_parked_stage_keeps_its_cache_and_draws_nothing(self) -> None:
        stage = middle()
        step(stage, 4)
        stage.detach_downstream()
        assert stage.next_step() is None
        assert not any(isinstance(m, Proposals) for m in stage.flush())
        stage.attach_downstream(
            Truth(EdgeId(1, 2, 20), 1, 0, array("I", [1, 2, 3, 4, 5]), 20), end=100
        )
        assert stage.kv_len == 3
        started = stage.next_step()
        assert started is not None and started.start == 3

    def test_a_drafter_of_a_shorter_context_stops_there_and_says_so(self) -> None:
        stage = new_stage(end=5, max_drafts=16)
        stage.attach_downstream(truth(1, 0, [1, 2], limit=20), end=100)
        assert step(stage, 3, 4, 5) == [3, 4, 5]
        assert stage.next_step() is None
        [message] = stage.flush()
        assert isinstance(message, Proposals)
        assert not message.more

    def test_a_newcomer_without_room_says_that_nothing_follows(self) -> None:
        stage = new_stage([1, 2, 3], end=2)
        stage.attach_downstream(truth(1, 0, [1, 2, 3], limit=20), end=2)
        [message] = stage.flush()
        assert isinstance(message, Proposals)
        assert not message.more
        assert stage.next_step() is None
