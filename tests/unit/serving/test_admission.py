"""Who is let in, who waits, who is refused, and that nothing is kept of who has left."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.errors import AuthenticationError, RateLimitError, RequestError
from specrouter_dist.serving.admission import Account, Admission, Need, Ticket
from specrouter_dist.serving.api_keys import load_keys
from specrouter_dist.serving.settings import KeyLimits, ServiceSettings

ALICE, BOB = "alice-has-a-long-key", "bob-has-a-long-key-too"
KEYS = f"{ALICE} name=alice,{BOB} name=bob"


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def made(clock: Callable[[], float] | None = None, keys: str = KEYS, **fields: Any) -> Admission:
    settings = ServiceSettings(**fields)
    loaded = load_keys(settings, {"SPECROUTER_API_KEYS": keys} if keys else {})
    return Admission(settings, loaded, clock or Clock())


def one(num_choices: int = 1, prompt: int = 0, output: int = 0) -> Need:
    return Need(num_choices, prompt, output)


class Clients:
    """Requests that stay until they are told to end."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.begun: list[str] = []

    @asynccontextmanager
    async def asking(self, name: str, account: Account, need: Need) -> AsyncIterator[asyncio.Event]:
        end = asyncio.Event()

        async def stay() -> None:
            async with self._admission.admit(account, need):
                self.begun.append(name)
                await end.wait()

        task = asyncio.create_task(stay())
        await settled()
        try:
            yield end
        finally:
            end.set()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_only_known_keys_have_accounts() -> None:
    admission = made()
    assert admission.account(ALICE).name == "alice"
    assert admission.account(ALICE) is admission.account(ALICE)
    for wrong in (None, "", "x", ALICE[:-1], ALICE + "x", ALICE.upper(), "\udcff" * 20):
        with pytest.raises(AuthenticationError) as caught:
            admission.account(wrong)
        assert not wrong or wrong not in str(caught.value)


def test_a_request_of_nobody_is_refused_where_there_are_keys() -> None:
    async def ask(admission: Admission) -> None:
        async with admission.admit(None, one()):
            pass

    with pytest.raises(AuthenticationError):
        run(ask(made()))
    run(ask(made(keys="")))


def test_one_key_waits_for_its_own_limit_and_the_others_do_not() -> None:
    async def work() -> None:
        admission = made(key_limits={"max_running": 1})
        alice, bob = admission.account(ALICE), admission.account(BOB)
        clients = Clients(admission)
        async with (
            clients.asking("a1", alice, one()) as first,
            clients.asking("a2", alice, one()),
            clients.asking("b1", bob, one()),
        ):
            assert clients.begun == ["a1", "b1"]
            assert (admission.num_running, admission.num_queued) == (2, 1)
            first.set()
            await settled()
            assert clients.begun == ["a1", "b1", "a2"]
        assert (admission.num_running, admission.num_queued) == (0, 0)

    run(work())


def test_a_key_with_many_requests_does_not_keep_the_others_waiting() -> None:
    async def work() -> None:
        admission = made(max_running=1)
        alice, bob = admission.account(ALICE), admission.account(BOB)
        clients = Clients(admission)
        async with (
            clients.asking("a1", alice, one()) as first,
            clients.asking("a2", alice, one()) as second,
            clients.asking("a3", alice, one()) as third,
            clients.asking("b1", bob, one()) as other,
        ):
            for end in (first, second, other, third):
                end.set()
                await settled()
            assert clients.begun == ["a1", "a2", "b1", "a3"]

    run(work())


def test_large_requests_are_not_starved_by_small_ones() -> None:
    async def work() -> None:
        admission = made(max_running=4)
        alice, bob = admission.account(ALICE), admission.account(BOB)
        clients = Clients(admission)
        async with (
            clients.asking("a1", alice, one(2)) as first,
            clients.asking("large", bob, one(4)),
            clients.asking("a2", alice, one(2)),
        ):
            assert clients.begun == ["a1"]
            first.set()
            await settled()
            assert clients.begun == ["a1", "large"]

    run(work())


@pytest.mark.parametrize(
    "fields",
    [
        {"key_limits": {"max_running": 1, "max_queued": 1}},
        {"max_running": 1, "max_queued": 1},
    ],
)
def test_full_queues_refuse_and_say_when_there_is_room(fields: dict[str, Any]) -> None:
    async def work() -> None:
        clock = Clock()
        admission = made(clock, **fields)
        alice = admission.account(ALICE)
        for _ in range(3):
            async with admission.admit(alice, one()):
                clock.now_s += 7.0
        clients = Clients(admission)
        async with (
            clients.asking("a1", alice, one()),
            clients.asking("a2", alice, one()),
        ):
            with pytest.raises(RateLimitError, match="no more than 1 may wait") as caught:
                async with admission.admit(alice, one()):
                    pass
            assert caught.value.retry_after_s == 7.0, "somebody has ended every seven seconds"
            assert (admission.num_running, admission.num_queued) == (1, 1)

    run(work())


def test_requests_per_minute() -> None:
    async def work() -> None:
        clock = Clock()
        admission = made(clock, key_limits={"requests_per_minute": 6})
        alice = admission.account(ALICE)

        async def ask(num_choices: int) -> None:
            async with admission.admit(alice, one(num_choices)):
                pass

        await ask(4)
        await ask(2)
        with pytest.raises(RateLimitError, match="requests per minute") as caught:
            await ask(1)
        assert caught.value.retry_after_s == pytest.approx(10.0)
        clock.now_s += 9.99
        with pytest.raises(RateLimitError):
            await ask(1)
        clock.now_s += 0.02
        await ask(1)
        async with admission.admit(admission.account(BOB), one(6)):
            pass

    run(work())


def test_tokens_that_were_not_used_are_given_back() -> None:
    async def work() -> None:
        clock = Clock()
        admission = made(clock, key_limits={"tokens_per_minute": 60})
        alice = admission.account(ALICE)
        async with admission.admit(alice, one(prompt=10, output=50)) as ticket:
            with pytest.raises(RateLimitError, match="tokens per minute"):
                async with admission.admit(alice, one(prompt=1)):
                    pass
            ticket.num_tokens += 5
        async with admission.admit(alice, one(output=45)):
            with pytest.raises(RateLimitError) as caught:
                async with admission.admit(alice, one(output=3)):
                    pass
            assert caught.value.retry_after_s == pytest.approx(3.0)

    run(work())


@pytest.mark.parametrize(
    ("limits", "need", "field"),
    [
        ({"max_running": 2}, one(3), "n"),
        ({"requests_per_minute": 2}, one(3), "n"),
        ({"tokens_per_minute": 20}, one(prompt=10, output=11), "max_tokens"),
    ],
)
def test_what_can_never_be_is_no_matter_of_waiting(
    limits: dict[str, int], need: Need, field: str
) -> None:
    async def work() -> None:
        admission = made(key_limits=limits)
        with pytest.raises(RequestError, match=f"^{field}: ") as caught:
            async with admission.admit(admission.account(ALICE), need):
                pass
        assert caught.value.field == field

    run(work())


@given(
    steps=st.lists(
        st.tuples(st.sampled_from([ALICE, BOB]), st.integers(1, 3), st.integers(0, 4)),
        max_size=12,
    ),
    max_running=st.integers(3, 5),
    own=st.integers(3, 4),
)
def test_no_limit_is_ever_exceeded_and_nothing_is_left(
    steps: list[tuple[str, int, int]], max_running: int, own: int
) -> None:
    """Clients that stay, leave and are cancelled at any time, in their turn and before it."""

    async def work() -> None:
        limits = KeyLimits(max_running=own, max_queued=4, tokens_per_minute=1000)
        clock = Clock()
        admission = made(clock, max_running=max_running, max_queued=6, key_limits=limits)
        num_inside = dict.fromkeys((ALICE, BOB), 0)

        async def stay(secret: str, num_choices: int, turns: int) -> None:
            account = admission.account(secret)
            async with admission.admit(account, one(num_choices, 1, 1)) as ticket:
                assert isinstance(ticket, Ticket)
                num_inside[secret] += num_choices
                assert num_inside[secret] <= own
                assert sum(num_inside.values()) <= max_running
                try:
                    for _ in range(turns):
                        await asyncio.sleep(0)
                finally:
                    num_inside[secret] -= num_choices

        tasks = []
        for i, step in enumerate(steps):
            tasks.append(asyncio.create_task(stay(*step)))
            await asyncio.sleep(0)
            if i % 3 == 2:
                tasks[i - 1].cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, RateLimitError | asyncio.CancelledError)
        assert (admission.num_running, admission.num_queued) == (0, 0)
        async with (
            admission.admit(admission.account(ALICE), one(3)),
        ):
            assert admission.num_running == 3

    run(work())
