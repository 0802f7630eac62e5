"""Full information: what every pair would have achieved on requests that have been served.

Members that did not draft for a request read its output afterwards, in spare time, and say what
they would have drawn at each position. Joined by position, that replays the rounds of any ordered
pair: the drafter's block stands as long as it picks what the verifier picks. For pairs with the
target this is exact. For others it is what they do on the target's path, which is not quite their
own: the difference to what verifies say is reported (DESIGN: section 8).
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import permutations, product

from specrouter_dist.config import LookupMember
from specrouter_dist.routing.observations import PairKey, Reading, Survival
from specrouter_dist.speculation.matching import Matcher
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.speculation.own_text import LONGEST_MATCH_TOKENS
from specrouter_dist.speculation.tokens import common_prefix

_MAX_REQUESTS = 64
"""Requests whose readings are waited for; the oldest is given up."""
OWN_TEXT_MATCHES = (3,)
"""Least matches that are considered for continuing a verifier's own text beside a drafter."""
_BLOCK_TOKENS = 8
"""Length of the replayed blocks, about that of planned ones: where texts have easy and hard
stretches, rounds of longer blocks begin more often behind a rejection, and so in a hard one."""


class Text:
    """What a request's text would have proposed by itself; each index is made once, and nothing is
    looked for twice, whoever drafts and verifies."""

    def __init__(self, output: Reading) -> None:
        self._num_prompt = len(output.prompt)
        self._tokens = output.prompt + output.picks
        self._matchers: dict[tuple[int, int], Matcher] = {}
        self._found: dict[tuple[int, int, int, int], TokenArray] = {}
        self.picks = output.picks
        """The output."""

    def proposed(self, position: int, num_wanted: int, least: int, most: int) -> TokenArray:
        """At a position of the output, where ``least`` tokens match; ``most`` are compared."""
        asked = position, num_wanted, least, most
        found = self._found.get(asked)
        if found is None:
            length = self._num_prompt + position
            found = self._matcher(least, most).continuation_at(length, num_wanted)
            self._found[asked] = found
        return found

    def _matcher(self, least: int, most: int) -> Matcher:
        matcher = self._matchers.get((least, most))
        if matcher is None:
            matcher = Matcher(self._tokens, min_match_tokens=least, max_match_tokens=most)
            self._matchers[least, most] = matcher
        return matcher


@dataclass(slots=True)
class _Request:
    text: Text | None = None
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
            request.text = Text(reading)
        request.picks[reading.member] = reading.picks
        while len(self._requests) > _MAX_REQUESTS:
            self._requests.popitem(last=False)
        pairs = [pair for pair in permutations(request.picks, 2) if pair[0] != self._target]
        for draft, verifier in pairs:
            if reading.member in (draft, verifier):
                key = PairKey(draft, verifier, reading.traffic)
                yield key, replay(request.picks[draft], request.picks[verifier])
        yield from self._replay_lookups(reading, request)
        yield from self._replay_own_text(reading, request, pairs)

    def _replay_lookups(
        self, reading: Reading, request: _Request
    ) -> Iterator[tuple[PairKey, Survival]]:
        """The text is needed too, so the verifiers wait for the target's reading."""
        if request.text is None:
            return
        came_now = [reading.member] if reading.member != self._target else list(request.picks)
        for name, lookup in self._lookups.items():
            for verifier in came_now:
                key = PairKey(name, verifier, reading.traffic)
                yield key, replay_lookup(lookup, request.text, request.picks[verifier])

    def _replay_own_text(
        self, reading: Reading, request: _Request, pairs: Sequence[tuple[str, str]]
    ) -> Iterator[tuple[PairKey, Survival]]:
        """Verifiers that continue their own text beside a drafter; they wait for the text, too."""
        if request.text is None:
            return
        is_text = reading.member == self._target
        came_now = [pair for pair in pairs if is_text or reading.member in pair]
        for (draft, verifier), match_tokens in product(came_now, OWN_TEXT_MATCHES):
            drafted, verified = request.picks[draft], request.picks[verifier]
            beside = replay_beside(drafted, verified, request.text, match_tokens)
            names = own_text_names(draft, match_tokens)
            for name, survival in zip(names, beside, strict=True):
                yield PairKey(name, verifier, reading.traffic), survival


@cache
def own_text_names(draft: str, match_tokens: int) -> tuple[str, str]:
    """As whose the rounds are recorded in which a verifier continues its own text where at least
    ``match_tokens`` match, and those in which ``draft`` proposes between them."""
    return f"own text {match_tokens} beside {draft}", f"{draft} beside own text {match_tokens}"


def replay(drafted: TokenArray, verified: TokenArray) -> Survival:
    """The rounds that a drafter and a verifier with these picks, by position, would have made."""
    survival, start, end = Survival(), 0, min(len(drafted), len(verified))
    while start < end:
        stop = min(start + _BLOCK_TOKENS, end)
        block = drafted[start:stop]
        num_accepted = common_prefix(block, verified[start:stop])
        survival.add(len(block), num_accepted)
        start += num_accepted + 1
    return survival


def replay_lookup(config: LookupMember, text: Text, verified: TokenArray) -> Survival:
    """The same for a proposer from the text, on the output's path."""
    least, most = config.min_match_tokens, config.max_match_tokens
    survival, start, end = Survival(), 0, min(len(verified), len(text.picks))
    while start < end:
        block = text.proposed(start, min(_BLOCK_TOKENS, end - start), least, most)
        num_accepted = common_prefix(block, verified[start : start + len(block)])
        survival.add(len(block), num_accepted)
        start += num_accepted + 1
    return survival


def replay_beside(
    drafted: TokenArray, verified: TokenArray, text: Text, match_tokens: int
) -> tuple[Survival, Survival]:
    """Rounds of a verifier that continues its own text where it can, and else asks a drafter.

    On the output's path, as all replays are: what is continued is the output so far, whoever
    verifies.

    Returns:
        rounds from the own text, among which the drafter's count as empty; the drafter's.
    """
    longest = max(match_tokens, LONGEST_MATCH_TOKENS)
    matched, others = Survival(), Survival()
    start, end = 0, min(len(drafted), len(verified), len(text.picks))
    while start < end:
        num_wanted = min(_BLOCK_TOKENS, end - start)
        block = text.proposed(start, num_wanted, match_tokens, longest)
        used = block or drafted[start : start + num_wanted]
        num_accepted = common_prefix(used, verified[start : start + num_wanted])
        matched.add(len(block), num_accepted if block else 0)
        if not block:
            others.add(len(used), num_accepted)
        start += num_accepted + 1
    return matched, others
