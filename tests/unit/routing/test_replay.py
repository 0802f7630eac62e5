"""Full information: rounds of every pair, replayed from what each would have picked."""

from array import array
from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.config import LookupMember
from specrouter_dist.routing.observations import PairKey, Reading, Survival
from specrouter_dist.routing.replay import (
    Replays,
    Text,
    own_text_names,
    replay,
    replay_beside,
    replay_lookup,
)
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.speculation.matching import Matcher

LOOKUP = LookupMember(kind="lookup", min_match_tokens=2)


def ids(values: Sequence[int]) -> "array[int]":
    return array("I", values)


def reading(
    member: str, picks: Sequence[int], prompt: Sequence[int] = (), request: int = 1
) -> Reading:
    return Reading(request, member, GREEDY, ids(picks), ids(prompt))


def test_rounds_go_on_behind_the_first_difference() -> None:
    #            accepted 2, recovered | accepted 0, recovered | accepted 2, bonus none left
    verified = [1, 2, 3, 4, 5, 6]
    drafted = [1, 2, 9, 9, 5, 6]
    survival = replay(ids(drafted), ids(verified))
    assert survival.num_blocks == 3
    assert survival.reached[:3] == [3, 2, 1]
    assert survival.accepted[:3] == [2, 2, 0]


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_a_replay_counts_what_a_lock_step_pair_would(agrees: list[bool]) -> None:
    verified = ids(range(len(agrees)))
    drafted = ids([v if same else 10_000 for v, same in zip(verified, agrees, strict=True)])
    found = replay(drafted, verified)
    expected, position = Survival(), 0
    while position < len(agrees):
        block = agrees[position : position + 8]
        run = next((k for k, same in enumerate(block) if not same), len(block))
        expected.add(len(block), run)
        position += run + 1
    assert found == expected
    assert found.is_plausible


def test_a_lookup_is_replayed_on_the_text() -> None:
    prompt, output = [1, 2, 3, 4, 1, 2], [3, 4, 7, 8, 9]
    text = Text(reading("target", output, prompt))
    survival = replay_lookup(LOOKUP, text, ids(output))
    # "1 2" was followed by "3 4 1 2": two stand. "7 8" is new, so is what follows.
    assert survival.num_blocks == 3
    assert survival.num_empty == 2
    assert survival.accepted[:3] == [1, 1, 0]


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), st.integers(1, 3), st.data())
def test_a_text_proposes_what_a_stream_of_that_length_would(
    output: list[int], least: int, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, len(output) - 1))
    so_far = Matcher([1, 2, *output[:position]], min_match_tokens=least, max_match_tokens=5)
    text = Text(reading("target", output, [1, 2]))
    for num_wanted in (4, 1, 4):
        found = text.proposed(position, num_wanted, least, 5)
        assert found == so_far.continuation(num_wanted), "also when it was asked before"


class TestOwnText:
    prompt = (1, 2, 3, 4, 5)

    def test_where_nothing_repeats_the_drafter_makes_all_rounds(self) -> None:
        output = Text(reading("target", [11, 12, 13, 14], self.prompt))
        matched, others = replay_beside(ids([11, 12, 9, 14]), output.picks, output, 2)
        assert (matched.num_blocks, matched.num_empty) == (2, 2)
        assert others == replay(ids([11, 12, 9, 14]), output.picks)

    def test_a_repetition_is_continued_whatever_the_drafter_says(self) -> None:
        # "1 2" comes again at once: from there the text itself proposes "3 4 5".
        output = Text(reading("target", [1, 2, 3, 4, 5, 9], self.prompt))
        matched, others = replay_beside(ids([1, 0, 0, 0, 0, 0]), output.picks, output, 2)
        assert (matched.num_blocks, matched.num_empty) == (2, 1)
        assert matched.accepted[:4] == [1, 1, 1, 0]
        assert others.accepted[0] == 1 and others.num_blocks == 1

    def test_a_longer_match_is_needed_where_more_is_asked(self) -> None:
        output = Text(reading("target", [1, 2, 3, 4, 5, 9], self.prompt))
        matched, _ = replay_beside(ids([0] * 6), output.picks, output, 4)
        assert matched.num_blocks - matched.num_empty == 1
        assert matched.accepted[0] == 1

    def test_a_verifier_in_between_continues_the_output_and_is_asked_what_it_picks(self) -> None:
        text = Text(reading("target", [1, 2, 3, 4, 5, 9], self.prompt))
        drafted, verified = ids([1, 7, 3, 4, 5, 9]), ids([1, 2, 3, 8, 5, 9])
        matched, others = replay_beside(drafted, verified, text, 2)
        # "4 5" is new: the drafter's 1 stands, its 7 does not. "1 2" was followed by "3 4 5 1", of
        # which the verifier, with its 8, takes the first alone; "3 4" by "5 1", of which the same.
        assert (others.num_blocks, others.reached[:3], others.accepted[:2]) == (
            1,
            [1, 1, 0],
            [1, 0],
        )
        assert (matched.num_blocks, matched.num_empty) == (3, 1)
        assert (matched.reached, matched.accepted) == ([2, 2, 0, 0], [2, 0, 0, 0])

    @given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 4), st.data())
    def test_every_round_is_counted_once(
        self, output: list[int], match_tokens: int, data: st.DataObject
    ) -> None:
        drafted, verified = ([data.draw(st.integers(0, 4)) for _ in output] for _ in range(2))
        text = Text(reading("target", output, self.prompt))
        matched, others = replay_beside(ids(drafted), ids(verified), text, match_tokens)
        assert matched.is_plausible and others.is_plausible
        assert matched.num_empty == others.num_blocks
        rounds = matched.num_blocks
        settled = rounds + sum(matched.accepted) + sum(others.accepted)
        assert len(output) <= settled <= len(output) + 1


class TestJoining:
    @pytest.fixture
    def replays(self) -> Replays:
        return Replays("target", {"lookup": LOOKUP})

    def all_pairs(self, replays: Replays, *readings: Reading) -> list[tuple[str, str]]:
        keys = [key for entry in readings for key, _ in replays.add(entry)]
        return [(key.draft, key.verifier) for key in keys]

    def pairs(self, replays: Replays, *readings: Reading) -> list[tuple[str, str]]:
        found = self.all_pairs(replays, *readings)
        return [pair for pair in found if "own text" not in pair[0]]

    def test_each_pair_is_replayed_once_whatever_the_order(self, replays: Replays) -> None:
        text = reading("target", [1, 2, 3], [5])
        small, medium = reading("small", [1, 2, 4]), reading("medium", [1, 2, 3])
        wanted = {
            ("small", "medium"),
            ("medium", "small"),
            ("small", "target"),
            ("medium", "target"),
            ("lookup", "small"),
            ("lookup", "medium"),
            ("lookup", "target"),
        }
        for order in ((text, small, medium), (small, medium, text), (small, text, medium)):
            found = self.pairs(Replays("target", {"lookup": LOOKUP}), *order)
            assert sorted(found) == sorted(wanted)

    def test_so_is_each_with_the_own_text_beside_the_drafter(self) -> None:
        text = reading("target", [1, 2, 3], [5])
        others = reading("small", [1, 2, 4]), reading("medium", [1, 2, 3])
        names = {draft: own_text_names(draft, 3) for draft in ("small", "medium")}
        pairs = [p for p in permutations(("small", "medium", "target"), 2) if p[0] in names]
        wanted = sorted((name, verifier) for draft, verifier in pairs for name in names[draft])
        for order in permutations((text, *others)):
            found = self.all_pairs(Replays("target", {"lookup": LOOKUP}), *order)
            assert sorted(pair for pair in found if "own text" in pair[0]) == wanted

    def test_the_own_text_is_replayed_with_each_verifiers_own_picks(self) -> None:
        prompt, output = [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 9]
        picks = {"target": output, "small": [1, 7, 3, 4, 5, 9], "medium": [1, 2, 3, 8, 5, 9]}
        replays, found = Replays("target", {}), {}
        for name, values in picks.items():
            found.update(replays.add(reading(name, values, prompt if name == "target" else [])))
        text = Text(reading("target", output, prompt))
        for verifier in ("medium", "target"):
            expected = replay_beside(ids(picks["small"]), ids(picks[verifier]), text, 3)
            for name, survival in zip(own_text_names("small", 3), expected, strict=True):
                assert found[PairKey(name, verifier, GREEDY)] == survival

    def test_without_the_text_nobody_continues_it(self, replays: Replays) -> None:
        found = self.all_pairs(replays, reading("small", [1, 2, 4]), reading("medium", [1, 2, 3]))
        assert sorted(found) == [("medium", "small"), ("small", "medium")]

    def test_a_reading_that_comes_twice_counts_once(self, replays: Replays) -> None:
        small = reading("small", [1, 2, 4])
        self.pairs(replays, reading("target", [1, 2, 3], [5]), small)
        assert self.pairs(replays, small) == []

    def test_requests_do_not_mix(self, replays: Replays) -> None:
        first = reading("small", [1, 2, 4], request=1)
        other = reading("medium", [1, 2, 3], request=2)
        assert self.pairs(replays, first, other) == []

    def test_what_never_becomes_complete_is_given_up(self, replays: Replays) -> None:
        self.pairs(replays, reading("small", [1], request=0))
        for request in range(1, 100):
            self.pairs(replays, reading("small", [1], request=request))
        late = reading("target", [1], [5], request=0)
        assert ("small", "target") not in self.pairs(replays, late)

    def test_the_key_says_the_kind_of_request(self, replays: Replays) -> None:
        list(replays.add(reading("small", [1])))
        found = list(replays.add(reading("medium", [1])))
        assert found[0][0] == PairKey("small", "medium", GREEDY)
