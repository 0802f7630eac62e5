"""Full information: what every pair would have achieved on requests that have been served.

Members that did not draft for a request read its output afterwards, in spare time, and say what
they would have drawn at each position. Joined by position, that replays the rounds of any ordered
pair: the drafter's block stands as long as it picks what the verifier picks. For pairs with the
target this is exact. For others it is what they do on the target's path, which is not quite their
own: the difference to what verifies say is reported (DESIGN: section 8).
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import permutations

from specrouter_dist.config import LookupMember
from specrouter_dist.routing.observations import PairKey, Reading, Survival
from specrouter_dist.speculation.matching import Matcher
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.speculation.own_text import OwnText
from specrouter_dist.speculation.tokens import TokenBuffer, common_prefix

_MAX_REQUESTS = 64
"""Requests whose readings are waited for; the oldest is given up."""
OWN_TEXT_MATCHES = (3, 6)
"""Least matches that are considered for continuing the target's own text beside a drafter."""
_BLOCK_TOKENS = 8
"""Length of the replayed blocks, about that of planned ones: where texts have easy and hard
stretches, rounds of longer blocks begin more often behind a rejection, and so in a hard one."""


@dataclass(slots=True)
class _Request:
    output: Reading | None = None
    picks: dict[str, TokenArray] = field(default_factory=dict)


class Replays:
    """Joins the readings of requests as they come.

    Args:
        target: name of the member whose reading is the output.
        lookups: members that propose from the text; they are replayed here.
    """

    def __init__(self, target: str, lookups: Mapping[str, LookupMember]) -> None:
        self._target = target
        self._lookups = lookups
        self._requests: OrderedDict[int, _Request] = OrderedDict()

    def add(self, reading: Reading) -> Iterator[tuple[PairKey, Survival]]:
        """The blocks of all pairs that ``reading`` completes."""
        request = self._requests.setdefault(reading.request, _Request())
        if reading.member in request.picks:
            return
        if reading.member == self._target:
            request.output = reading
        request.picks[reading.member] = reading.picks
        while len(self._requests) > _MAX_REQUESTS:
            self._requests.popitem(last=False)
        for draft, verifier in permutations(request.picks, 2):
            if reading.member in (draft, verifier) and draft != self._target:
                key = PairKey(draft, verifier, reading.traffic)
                yield key, replay(request.picks[draft], request.picks[verifier])
        yield from self._replay_lookups(reading, request)
        yield from self._replay_own_text(reading, request)

    def _replay_lookups(
        self, reading: Reading, request: _Request
    ) -> Iterator[tuple[PairKey, Survival]]:
        """The text is needed too, so the verifiers wait for the target's reading."""
        if request.output is None:
            return
        came_now = [reading.member] if reading.member != self._target else list(request.picks)
        for name, lookup in self._lookups.items():
            for verifier in came_now:
                key = PairKey(name, verifier, reading.traffic)
                yield key, replay_lookup(lookup, request.output, request.picks[verifier])

    def _replay_own_text(
        self, reading: Reading, request: _Request
    ) -> Iterator[tuple[PairKey, Survival]]:
        """The target beside whose drafters its own text is continued."""
        if request.output is None:
            return
        is_output = reading.member == self._target
        for draft in request.picks if is_output else (reading.member,):
            if draft == self._target:
                continue
            for match_tokens in OWN_TEXT_MATCHES:
                beside = replay_beside(request.picks[draft], request.output, match_tokens)
                names = own_text_names(draft, match_tokens)
                for name, survival in zip(names, beside, strict=True):
                    yield PairKey(name, self._target, reading.traffic), survival


@cache
def own_text_names(draft: str, match_tokens: int) -> tuple[str, str]:
    """As whose the rounds are recorded in which the target continues its own text where at least
    ``match_tokens`` match, and those in which ``draft`` proposes between them."""
    return f"own text {match_tokens} beside {draft}", f"{draft} beside own text {match_tokens}"


def replay(drafted: TokenArray, verified: TokenArray) -> Survival:
    """The rounds that a drafter and a verifier with these picks, by position, would have made."""
    survival, start, end = Survival(), 0, min(len(drafted), len(verified))
    while start < end:
        block = drafted[start : min(start + _BLOCK_TOKENS, end)]
        num_accepted = common_prefix(block, verified[start:end])
        survival.add(len(block), num_accepted)
        start += num_accepted + 1
    return survival


def replay_lookup(config: LookupMember, output: Reading, verified: TokenArray) -> Survival:
    """The same for a proposer from the text, on the output's path."""
    matcher = Matcher(
        output.prompt,
        min_match_tokens=config.min_match_tokens,
        max_match_tokens=config.max_match_tokens,
    )
    survival, start = Survival(), 0
    while start < len(verified):
        block = matcher.continuation(min(_BLOCK_TOKENS, len(verified) - start))
        num_accepted = common_prefix(block, verified[start:])
        survival.add(len(block), num_accepted)
        end = start + num_accepted + 1
        matcher.append(output.picks[start:end])
        start = end
    return survival


def replay_beside(
    drafted: TokenArray, output: Reading, match_tokens: int
) -> tuple[Survival, Survival]:
    """Rounds of a target that continues its own text where it can, and else asks a drafter.

    Returns:
        rounds from the own text, among which the drafter's count as empty; the drafter's.
    """
    own = OwnText(match_tokens)
    text, verified = TokenBuffer(output.prompt), output.picks
    matched, others = Survival(), Survival()
    start, end = 0, min(len(drafted), len(verified))
    while start < end:
        num_wanted = min(_BLOCK_TOKENS, end - start)
        block = own.continuation(text, num_wanted)
        used = block or drafted[start : start + num_wanted]
        num_accepted = common_prefix(used, verified[start:end])
        matched.add(len(block), num_accepted if block else 0)
        if not block:
            others.add(len(used), num_accepted)
        text.append(verified[start : start + num_accepted + 1])
        start += num_accepted + 1
    return matched, others
