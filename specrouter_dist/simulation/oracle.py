"""Synthetic members: what each would pick, with the agreements that the profile states.

**The joint law.** The context of a pick is its session, its position and the tokens before it.
Each context has one number, drawn by hashing; it decides into which groups the members fall
(:mod:`joint_law`) and which token each group picks. So after the same prefix, whatever it is, on
the target's path or off it, members i and j pick the same token with exactly the stated
probability, independently of other contexts. A chain of three needs no more than that: its
middle stage's stream goes on from prefixes of its own, and there the drafter agrees with it as
stated.

**Easy and hard text.** With burstiness the law of a position depends on whether it lies in an
easy or in a hard stretch of its session: half of the text is either, in stretches of geometric
length. The agreement of a pair is ``a + d`` in one and ``a - d`` in the other, with
``d = burstiness * min(a, 1 - a)``. The share of k accepted proposals is then the mean of two
geometric ones as long as the stretch lasts: heavier than ``a ** k``. Over all positions the
agreement is ``a``; among proposals that are judged it is a little lower, because rounds in hard
stretches are shorter and so more of them begin there.

**Runner-ups.** What a verifier picks is known here, and its drafter must not know it. Where their
picks differ, the drafter's runner-up is the verifier's pick with the stated probability
(``runner_up_agreement``), and else a token that nobody picks; where they are equal, always such a
token. All gaps are alike: a drafter learns how often its tokens stand, not which are doubtful.

A pick is a pure function of (seed, session, member, position, prefix), so a run can be repeated,
and each member's stream is that of a deterministic model.
"""

from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from specrouter_dist.simulation.joint_law import fit, groupings
from specrouter_dist.simulation.profile import DEFAULT_RUNNER_UP_AGREEMENT, Profile
from specrouter_dist.simulation.texts import Text
from specrouter_dist.speculation.forks import Draw
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.speculation.tokens import extend_hash

_MASK64 = (1 << 64) - 1
_MIX_A = 0xBF58476D1CE4E5B9
_MIX_B = 0x94D049BB133111EB
_GOLDEN = 0x9E3779B97F4A7C15
_GROUP_BITS = 3
_TOKEN_MASK = (1 << (32 - _GROUP_BITS)) - 1
_NOBODYS_TOKEN = (1 << 32) - 1
"""There is no group of its number."""
_GAP = 1.0


def mix(key: int) -> int:
    """64 bits that look random, of any 64 (the finaliser of splitmix64)."""
    key = ((key ^ (key >> 30)) * _MIX_A) & _MASK64
    key = ((key ^ (key >> 27)) * _MIX_B) & _MASK64
    return key ^ (key >> 31)


class _Law:
    """The joint law, made for drawing: thresholds of 32 bits, and each member's group."""

    def __init__(self, law: NDArray[np.float64], num_members: int) -> None:
        order = np.argsort(-law)
        likely = order[law[order] > 0]
        cumulative = np.cumsum(law[likely]) * 2.0**32
        self.thresholds: list[int] = [round(float(x)) for x in cumulative[:-1]]
        ways = groupings(num_members)
        self.groups = [bytes(ways[i][m] for i in likely) for m in range(num_members)]
        """By member: the group by which of the likely ways it is."""


class Oracle:
    """The picks of a pool's members.

    Args:
        profile: states the agreements; its seed decides all texts.

    Raises:
        ConfigError: the agreements contradict each other.
    """

    def __init__(self, profile: Profile) -> None:
        names = [member.name for member in profile.members]
        self.index = {name: i for i, name in enumerate(names)}
        self._seed = mix(profile.seed ^ _GOLDEN)
        self._span_tokens = profile.span_tokens
        # Tokens that differ: a text that repeats itself would be continued from itself.
        self._prompt = array(TOKEN_TYPECODE, range(profile.workload.prompt_tokens))
        self._runner_ups = {
            (self.index[a.draft], self.index[a.verifier]): a.runner_up_agreement
            for a in profile.agreements
        }
        self._bursty = any(a.burstiness for a in profile.agreements)
        kinds = {" in hard text": -1, " in easy text": 1} if self._bursty else {"": 0}
        self._laws = [
            _Law(fit(names, _shifted(profile, self.index, sign), where), len(names))
            for where, sign in kinds.items()
        ]

    def prompt(self, session: int) -> TokenArray:
        """The same for all: what follows it differs."""
        return self._prompt

    def text(self, session: int, num_tokens: int) -> Text:
        """What the members would write in that session, up to position ``num_tokens``."""
        key = mix(self._seed + session * _GOLDEN & _MASK64)
        stretches = self._stretches(key, num_tokens) if self._bursty else b""
        return DrawnText(key, self._laws, stretches, self._runner_ups)

    def _stretches(self, key: int, num_tokens: int) -> bytes:
        """Per position: 1 easy, 0 hard."""
        rng = np.random.Generator(np.random.PCG64(key))
        lengths = rng.geometric(1 / self._span_tokens, size=num_tokens + 1)
        needed = int(np.searchsorted(np.cumsum(lengths), num_tokens)) + 1
        kinds = (np.arange(needed) + rng.integers(2)) % 2
        return np.repeat(kinds, lengths[:needed]).astype(np.uint8).tobytes()


def _shifted(profile: Profile, index: dict[str, int], sign: int) -> dict[tuple[int, int], float]:
    return {
        (index[a.draft], index[a.verifier]): a.agreement
        + sign * a.burstiness * min(a.agreement, 1 - a.agreement)
        for a in profile.agreements
    }


class DrawnText:
    """What the members would write in one session."""

    __slots__ = ("_key", "_laws", "_runner_ups", "_stretches")

    def __init__(
        self,
        key: int,
        laws: Sequence[_Law],
        stretches: bytes,
        runner_ups: Mapping[tuple[int, int], float],
    ) -> None:
        self._key = key
        self._laws = laws
        self._stretches = stretches
        self._runner_ups = runner_ups

    def picks(
        self,
        member: int,
        position: int,
        prefix_hash: int,
        proposals: Sequence[int] = (),
        num_drafts: int = 0,
    ) -> TokenArray:
        """See :class:`Text`."""
        key, laws, stretches = self._key, self._laws, self._stretches
        thresholds, groups = laws[0].thresholds, laws[0].groups[member]
        num_proposals = len(proposals)
        picks = array(TOKEN_TYPECODE)
        for i in range(num_proposals + 1 + num_drafts):
            if stretches:
                law = laws[stretches[position + i]]
                thresholds, groups = law.thresholds, law.groups[member]
            z = prefix_hash ^ key
            z = ((z ^ (z >> 30)) * _MIX_A) & _MASK64
            z = ((z ^ (z >> 27)) * _MIX_B) & _MASK64
            z ^= z >> 31
            group = groups[bisect_right(thresholds, z >> 32)]
            token = (z & _TOKEN_MASK) << _GROUP_BITS | group
            picks.append(token)
            prefix_hash = extend_hash(prefix_hash, proposals[i] if i < num_proposals else token)
        return picks

    def draw(self, member: int, verifier: int, position: int, prefix_hash: int) -> Draw:
        """See :class:`Text`."""
        own, verifiers = (
            self.picks(index, position, prefix_hash)[0] for index in (member, verifier)
        )
        share = self._runner_ups.get((member, verifier), DEFAULT_RUNNER_UP_AGREEMENT)
        # Hashed once more than the picks: whether it is right says nothing of what they are.
        is_right = own != verifiers and mix(mix(prefix_hash ^ self._key)) < share * 2.0**64
        return Draw(own, verifiers if is_right else _NOBODYS_TOKEN, _GAP)
