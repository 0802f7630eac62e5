"""What sessions leave behind: found by content, given up when room is wanted, never changed."""

from array import array
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specrouter_dist.config import Dtype, SamplingParams
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.interface import Extension
from specrouter_dist.engine.kv_cache import PAGE_TOKENS, PageAllocator
from specrouter_dist.engine.prefix_cache import PrefixCache
from specrouter_dist.errors import NoRoomError
from tests.unit.engine.fast_models import load, logged_logits, save, small, text

GREEDY = SamplingParams(temperature=0.0)


def stream(*pages: int) -> "array[int]":
    """Whole pages, each of one token."""
    return array("I", [token for token in pages for _ in range(PAGE_TOKENS)])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("small")
    save(small(), directory)
    return directory


class TestPages:
    @pytest.fixture
    def allocator(self) -> PageAllocator:
        return PageAllocator(8)

    def test_a_hit_is_the_longest_prefix_of_whole_pages(self, allocator: PageAllocator) -> None:
        cache = PrefixCache(allocator, 8)
        pages = cache.take(3)
        cache.publish(stream(1, 2, 3), pages)
        assert cache.find(stream(1, 2, 4, 3)) == pages[:2]
        assert cache.find(stream(2, 3)) == []

    def test_a_hit_leaves_a_token_to_be_fed(self, allocator: PageAllocator) -> None:
        cache = PrefixCache(allocator, 8)
        pages = cache.take(2)
        cache.publish(stream(1, 2), pages)
        assert cache.find(stream(1, 2)) == pages[:1]
        assert cache.find(stream(1, 2) + array("I", [9])) == pages

    def test_part_of_a_page_is_not_kept(self, allocator: PageAllocator) -> None:
        cache = PrefixCache(allocator, 8)
        cache.publish(stream(1, 2)[:-1], cache.take(2))
        assert len(cache) == 1

    def test_the_end_of_a_prefix_is_given_up_before_its_beginning(
        self, allocator: PageAllocator
    ) -> None:
        cache = PrefixCache(allocator, 8)
        pages = cache.take(4)
        cache.publish(stream(1, 2, 3, 4), pages)
        allocator.drop(pages)
        cache.take(6)
        assert cache.find(stream(1, 2, 3, 4, 5)) == pages[:2]

    def test_no_more_is_kept_than_allowed(self, allocator: PageAllocator) -> None:
        cache = PrefixCache(allocator, 2)
        pages = cache.take(4)
        cache.publish(stream(1, 2, 3, 4), pages)
        assert len(cache) == 2
        assert cache.find(stream(1, 2, 3, 4)) == pages[:2]

    def test_a_page_that_is_given_up_is_found_no_more(self, allocator: PageAllocator) -> None:
        cache = PrefixCache(allocator, 8)
        pages = cache.take(2)
        cache.publish(stream(1, 2), pages)
        cache.give_up(pages[1])
        cache.give_up(7)
        assert cache.find(stream(1, 2, 3)) == pages[:1]
        assert [allocator.users(page) for page in pages] == [2, 1]

    def test_what_sessions_hold_is_not_room(self, allocator: PageAllocator) -> None:
        cache = PrefixCache(allocator, 8)
        held = cache.take(5)
        cache.publish(stream(1, 2, 3, 4, 5), held)
        with pytest.raises(NoRoomError, match="4 pages wanted, 3 free"):
            cache.take(4)
        assert len(cache) == 5

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.tuples(st.integers(1, 3), st.lists(st.integers(0, 2), max_size=4))))
    def test_pages_are_neither_lost_nor_held_twice(
        self, script: list[tuple[int, list[int]]]
    ) -> None:
        allocator = PageAllocator(6)
        cache = PrefixCache(allocator, 4)
        sessions: list[list[int]] = []
        for kind, content in script:
            if kind == 1 and sessions:
                allocator.drop(sessions.pop(0))
                continue
            try:
                pages = cache.take(max(1, len(content)))
            except NoRoomError:
                continue
            assert all(allocator.users(page) == 1 for page in pages)
            sessions.append(pages)
            if kind == 2:
                cache.publish(stream(*content), pages)
        for pages in sessions:
            allocator.drop(pages)
        assert allocator.num_free + len(cache) == 6
        assert len(cache.take(6)) == 6


class TestEngine:
    @pytest.fixture(params=list(Dtype))
    def engine(self, request: pytest.FixtureRequest, saved: Path) -> FastEngine:
        return load(saved, dtype=request.param, kv_tokens=PAGE_TOKENS * 16)

    def feed(self, engine: FastEngine, tokens: "array[int]", start: int, slot: int) -> torch.Tensor:
        with logged_logits() as log:
            engine.extend([Extension(slot, start, tokens[start:], 1)])
        return log.rows[slot, len(tokens) - 1]

    def test_the_logits_after_a_hit_are_those_without_bit_for_bit(self, engine: FastEngine) -> None:
        tokens = text(120, 150)
        first = engine.open(GREEDY, len(tokens), 200)
        assert engine.reuse(first, tokens) == 0
        expected = self.feed(engine, tokens, 0, first)
        engine.publish(first, tokens)
        second = engine.open(GREEDY, len(tokens), 200)
        assert engine.reuse(second, tokens) == 2 * PAGE_TOKENS
        assert torch.equal(self.feed(engine, tokens, 2 * PAGE_TOKENS, second), expected)

    def test_a_published_page_that_is_fed_over_is_found_no_more(self, engine: FastEngine) -> None:
        tokens = text(120, 100)
        first = engine.open(GREEDY, len(tokens), 200)
        expected = self.feed(engine, tokens, 0, first)
        engine.publish(first, tokens)
        engine.extend([Extension(first, 10, text(60, 80), 1)])
        second = engine.open(GREEDY, len(tokens), 200)
        assert engine.reuse(second, tokens) == 0
        assert torch.equal(self.feed(engine, tokens, 0, second), expected)

    def test_a_session_that_has_all_pages_may_take_back_what_it_published(
        self, saved: Path
    ) -> None:
        engine = load(saved, kv_tokens=2 * PAGE_TOKENS)
        tokens = text(120, 100)
        slot = engine.open(GREEDY, 60, 2 * PAGE_TOKENS)
        self.feed(engine, tokens, 0, slot)
        engine.publish(slot, tokens)
        engine.extend([Extension(slot, 60, text(60, 10), 1)])
        engine.close(slot)
        assert engine.reuse(engine.open(GREEDY, 60, 2 * PAGE_TOKENS), tokens) == 0

    def test_penalties_count_a_prefix_that_was_not_fed(self, engine: FastEngine) -> None:
        tokens = text(120, 100)
        harsh = SamplingParams(temperature=0.0, repetition_penalty=50.0)
        picks = []
        for start in (0, PAGE_TOKENS):
            slot = engine.open(harsh, len(tokens), 200)
            assert engine.reuse(slot, tokens) == start
            (drawn,) = engine.extend([Extension(slot, start, tokens[start:], 1, 20)])
            picks.append(drawn.tokens.tolist())
            engine.publish(slot, tokens)
        assert picks[0] == picks[1]

    def test_nothing_is_kept_where_it_is_not_wanted(self, saved: Path) -> None:
        engine = load(saved, prefix_cache=False)
        tokens = text(120, 100)
        slot = engine.open(GREEDY, len(tokens), 200)
        self.feed(engine, tokens, 0, slot)
        engine.publish(slot, tokens)
        assert engine.reuse(engine.open(GREEDY, len(tokens), 200), tokens) == 0

    def test_what_is_kept_gives_way_to_sessions(self, engine: FastEngine) -> None:
        for seed in range(6):
            tokens = array("I", [(token + seed) % 120 for token in text(120, 200)])
            slot = engine.open(GREEDY, len(tokens), 300)
            self.feed(engine, tokens, 0, slot)
            engine.publish(slot, tokens)
            engine.close(slot)
        slots = [engine.open(GREEDY, 1, PAGE_TOKENS * 8) for _ in range(2)]
        with pytest.raises(NoRoomError):
            engine.open(GREEDY, 1, 1)
        assert len(slots) == 2
