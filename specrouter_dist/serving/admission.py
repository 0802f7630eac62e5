"""Who may have how much of the pool, and when: what all ingresses ask before they submit.

No HTTP and no gRPC. An :class:`Admission` belongs to one event loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from specrouter_dist.errors import RateLimitError, RequestError
from specrouter_dist.serving.allowance import Allowance
from specrouter_dist.serving.api_keys import ApiKeys
from specrouter_dist.serving.intake import Intake
from specrouter_dist.serving.settings import KeyLimits, ServiceSettings

_REMEMBERED_ENDS = 32
_RETRY_AFTER_RANGE_S = (1.0, 60.0)


@dataclass(frozen=True, slots=True)
class Need:
    """What one request wants."""

    num_choices: int
    num_prompt_tokens: int
    """Of all prompts."""
    max_output_tokens: int
    """Of all choices."""

    @property
    def num_tokens(self) -> int:
        """The most that it can use."""
        return self.num_prompt_tokens + self.max_output_tokens


@dataclass(slots=True)
class Ticket:
    """An admitted request; whoever runs it counts its output."""

    num_tokens: int
    """Used so far, the prompts' included."""


@dataclass(eq=False, slots=True)
class _Waiter:
    num_choices: int
    turn: asyncio.Future[None]


@dataclass(eq=False, slots=True)
class Account:
    """What a key has of the service now."""

    name: str
    limits: KeyLimits
    requests: Allowance | None
    tokens: Allowance | None
    num_running: int = 0
    """Choices."""
    waiting: deque[_Waiter] = field(default_factory=deque)

    @property
    def num_queued(self) -> int:
        """Choices that wait for their turn."""
        return sum(waiter.num_choices for waiter in self.waiting)

    def allowances(self, need: Need) -> Iterator[tuple[str, Allowance, int]]:
        """The limits per minute, each with what the request takes of it."""
        if self.requests is not None:
            yield "requests", self.requests, need.num_choices
        if self.tokens is not None:
            yield "tokens", self.tokens, need.num_tokens


class Admission:
    """Lets requests in, makes them wait, or refuses them.

    Keys that wait get their turns round about, each for its oldest request, so that a key with
    many requests does not keep the others waiting.

    Args:
        settings: of the service.
        keys: of its clients; without any, all are one account.
        clock: seconds.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        keys: ApiKeys | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._keys = keys or ApiKeys()
        self._clock = clock
        self.intake = Intake(settings.max_pending_bytes)
        self._accounts = {key.name: self._open(key.name, key.limits) for key in self._keys.keys}
        self._everybody = None if self._accounts else self._open("all", settings.key_limits)
        self._num_running = 0
        self._turns: dict[Account, None] = {}
        """Accounts with somebody waiting; whose turn it is first."""
        self._ends: deque[float] = deque(maxlen=_REMEMBERED_ENDS)

    @property
    def has_keys(self) -> bool:
        """Whether clients have to show one."""
        return self._everybody is None

    @property
    def allows_lossy(self) -> bool:
        """Whether a request may ask for tokens that the target has not verified."""
        return self._settings.allow_lossy

    @property
    def num_running(self) -> int:
        """Choices that were let in and have not ended."""
        return self._num_running

    @property
    def num_queued(self) -> int:
        """Choices that wait for their turn."""
        return sum(account.num_queued for account in self._turns)

    def account(self, secret: str | None) -> Account:
        """Whose key it is; without keys, the one account of all.

        Raises:
            AuthenticationError: no key of this service.
        """
        return self._everybody or self._accounts[self._keys.find(secret).name]

    def timeout_s(self, wanted: float | None) -> float | None:
        """How long a request may take; None: for ever.

        Raises:
            RequestError: it wants longer than any may.
        """
        if wanted is None:
            return self._settings.timeout_s
        if wanted > self._settings.max_timeout_s:
            raise RequestError(
                f"timeout: at most {self._settings.max_timeout_s:g} seconds, got {wanted:g}",
                field="timeout",
            )
        return wanted

    @asynccontextmanager
    async def admit(self, account: Account | None, need: Need) -> AsyncIterator[Ticket]:
        """Waits for the request's turn; leaving ends it. Being cancelled is fine at any time.

        Args:
            account: of :meth:`account`; None: nobody has said, which only does without keys.
            need: what it wants.

        Raises:
            AuthenticationError: there are keys, and none was shown.
            RateLimitError: not now; says when to try again.
            RequestError: never, it is larger than a limit.
        """
        account = account or self.account(None)
        self._check_size(account, need)
        self._check_allowances(account, need)
        waiter = _Waiter(need.num_choices, asyncio.get_running_loop().create_future())
        account.waiting.append(waiter)
        self._turns.setdefault(account)
        self._let_in()
        try:
            self._check_queues(account, waiter)
            for _, allowance, amount in account.allowances(need):
                allowance.take(amount)
            ticket = Ticket(0)
            try:
                await waiter.turn
                ticket.num_tokens = need.num_prompt_tokens
                yield ticket
            finally:
                if account.tokens is not None:
                    account.tokens.take(ticket.num_tokens - need.num_tokens)
        finally:
            self._leave(account, waiter)

    # -- turns -----------------------------------------------------------------------------------

    def _let_in(self) -> None:
        """Everybody for whom there is room, in turns."""
        while (account := self._next()) is not None:
            waiter = account.waiting.popleft()
            del self._turns[account]
            if account.waiting:
                self._turns[account] = None
            account.num_running += waiter.num_choices
            self._num_running += waiter.num_choices
            if not waiter.turn.done():
                # Else it has been cancelled, and leaves in a moment.
                waiter.turn.set_result(None)

    def _next(self) -> Account | None:
        for account in self._turns:
            wanted = account.waiting[0].num_choices
            if _fits(account.num_running + wanted, account.limits.max_running):
                # Whoever waits for the pool alone is waited for: else large requests starve.
                fits = _fits(self._num_running + wanted, self._settings.max_running)
                return account if fits else None
        return None

    def _leave(self, account: Account, waiter: _Waiter) -> None:
        if waiter in account.waiting:
            account.waiting.remove(waiter)
            if not account.waiting:
                del self._turns[account]
        else:
            account.num_running -= waiter.num_choices
            self._num_running -= waiter.num_choices
            self._ends.append(self._clock())
        self._let_in()

    # -- checks ----------------------------------------------------------------------------------

    def _check_size(self, account: Account, need: Need) -> None:
        limits = account.limits
        for whose, limit in (
            ("the service runs", self._settings.max_running),
            ("this key may run", limits.max_running),
            ("this key has per minute", limits.requests_per_minute),
        ):
            if not _fits(need.num_choices, limit):
                raise RequestError(
                    f"n: {need.num_choices} choices; {whose} at most {limit}", field="n"
                )
        if not _fits(need.num_tokens, limits.tokens_per_minute):
            raise RequestError(
                f"max_tokens: up to {need.max_output_tokens} tokens behind prompts of "
                f"{need.num_prompt_tokens}; this key has {limits.tokens_per_minute} per minute",
                field="max_tokens",
            )

    def _check_allowances(self, account: Account, need: Need) -> None:
        for what, allowance, amount in account.allowances(need):
            wait_s = allowance.wait_s(amount)
            if wait_s > 0:
                raise RateLimitError(
                    f"{what} per minute: {amount} wanted of this key's {allowance.per_minute}; "
                    f"there will be as many in {wait_s:.1f} s",
                    retry_after_s=wait_s,
                )

    def _check_queues(self, account: Account, waiter: _Waiter) -> None:
        if waiter not in account.waiting:
            return
        own = account.limits.max_queued
        if not _fits(account.num_queued, own):
            raise RateLimitError(
                f"{account.num_running} choices of this key are running, and no more than {own} "
                "may wait",
                retry_after_s=self._pause_s(),
            )
        if not _fits(self.num_queued, self._settings.max_queued):
            raise RateLimitError(
                f"{self._num_running} choices are running, and no more than "
                f"{self._settings.max_queued} may wait",
                retry_after_s=self._pause_s(),
            )

    def _pause_s(self) -> float:
        """A place in a queue is free when somebody has ended: the usual time between two ends."""
        least, most = _RETRY_AFTER_RANGE_S
        if len(self._ends) < 2:
            return least
        between_s = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return min(most, max(least, between_s))

    def _open(self, name: str, limits: KeyLimits) -> Account:
        def allowance(per_minute: int | None) -> Allowance | None:
            return None if per_minute is None else Allowance(per_minute, self._clock)

        return Account(
            name,
            limits,
            allowance(limits.requests_per_minute),
            allowance(limits.tokens_per_minute),
        )


def _fits(amount: int, limit: int | None) -> bool:
    return limit is None or amount <= limit
