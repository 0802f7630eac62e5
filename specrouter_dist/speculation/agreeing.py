"""Members that agree as stated: what each would pick, drawn from one joint law.

The context of a pick is its text, its position and the tokens before it. Each context has one
number, drawn by hashing; it decides into which groups the members fall (:mod:`joint_law`) and which
token each group picks. So after the same prefix, whatever it is, on the target's path or off it,
members i and j pick the same token with exactly the stated probability, independently of other
contexts. A chain of three needs no more than that: its middle stage's stream goes on from prefixes
of its own, and there the drafter agrees with it as stated.

A pick is a pure function of (text, member, position, prefix), so a run can be repeated, and each
member's stream is that of a deterministic model.
"""

from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np

from specrouter_dist.config import Agreement
from specrouter_dist.speculation.joint_law import fit, groupings
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.speculation.noise import GOLDEN, MASK64, MIX_1, MIX_2, mix64
from specrouter_dist.speculation.tokens import extend_hash

_GROUP_BITS = 3
NUM_GROUPS = 1 << _GROUP_BITS
"""A token says in its lowest bits which group has picked it, so no two groups pick the same."""
_ALL_IDS = 1 << 32
_WORD_MASK = (1 << (32 - _GROUP_BITS)) - 1


def seed_key(seed: int) -> int:
    """The key of all texts of a seed."""
    return mix64(seed ^ GOLDEN)


def text_key(key: int, number: int) -> int:
    """The key of one of them."""
    return mix64((key + number * GOLDEN) & MASK64)


class JointLaw:
    """The joint law, made for drawing: thresholds of 32 bits, and each member's group.

    Args:
        names: of the members.
        agreements: by pair of indices into ``names``.
        where: these agreements hold, for the error.

    Raises:
        ConfigError: the agreements contradict each other.
    """

    def __init__(
        self, names: Sequence[str], agreements: Mapping[tuple[int, int], float], where: str = ""
    ) -> None:
        law = fit(names, agreements, where)
        order = np.argsort(-law)
        likely = order[law[order] > 0]
        cumulative = np.cumsum(law[likely]) * 2.0**32
        self.thresholds: list[int] = [round(float(x)) for x in cumulative[:-1]]
        ways = groupings(len(names))
        self.groups = [bytes(ways[i][m] for i in likely) for m in range(len(names))]
        """By member: the group by which of the likely ways it is."""

    def agreement(self, first: int, second: int) -> float:
        """How often these two members pick the same, also if that is not stated."""
        shares = np.diff([0, *self.thresholds, 1 << 32]) / 2.0**32
        pairs = zip(shares, self.groups[first], self.groups[second], strict=True)
        return float(sum(share for share, one, other in pairs if one == other))


def law_of(agreements: Sequence[Agreement], name: str) -> tuple[JointLaw, int]:
    """The law of all members that stand in ``agreements``, and the index of ``name`` among them.

    Raises:
        ConfigError: the agreements contradict each other.
    """
    named = [each for a in agreements for each in (a.draft, a.verifier)]
    names = list(dict.fromkeys((*named, name)))
    stated = {(names.index(a.draft), names.index(a.verifier)): a.agreement for a in agreements}
    return JointLaw(names, stated), names.index(name)


class AgreedText:
    """What the members would write in one text.

    Args:
        key: of the text.
        laws: of its positions.
        stretches: which of the laws holds at each position, one byte for each; empty: the first
            does everywhere.
        num_ids: only ids below it are picked; ``NUM_GROUPS`` at least.
    """

    __slots__ = ("_key", "_laws", "_num_words", "_stretches")

    def __init__(
        self,
        key: int,
        laws: Sequence[JointLaw],
        stretches: bytes = b"",
        num_ids: int = _ALL_IDS,
    ) -> None:
        self._key = key
        self._laws = laws
        self._stretches = stretches
        self._num_words = num_ids // NUM_GROUPS

    def picks(
        self,
        member: int,
        position: int,
        prefix_hash: int,
        proposals: Sequence[int] = (),
        num_drafts: int = 0,
    ) -> TokenArray:
        """The member's token at ``position``, after each proposal, and then after its own.

        Args:
            member: index among the members.
            position: of the first pick.
            prefix_hash: of the tokens before it.
            proposals: tokens from ``position`` on.
            num_drafts: tokens to draw behind the last pick.

        Returns:
            ``len(proposals) + 1 + num_drafts`` tokens.
        """
        key, laws, stretches = self._key, self._laws, self._stretches
        thresholds, groups = laws[0].thresholds, laws[0].groups[member]
        num_proposals, num_words = len(proposals), self._num_words
        picks = array(TOKEN_TYPECODE)
        for i in range(num_proposals + 1 + num_drafts):
            if stretches:
                law = laws[stretches[position + i]]
                thresholds, groups = law.thresholds, law.groups[member]
            # mix64, written out: nothing else takes as long in a simulation.
            z = prefix_hash ^ key
            z = ((z ^ (z >> 30)) * MIX_1) & MASK64
            z = ((z ^ (z >> 27)) * MIX_2) & MASK64
            z ^= z >> 31
            group = groups[bisect_right(thresholds, z >> 32)]
            token = ((z & _WORD_MASK) % num_words) << _GROUP_BITS | group
            picks.append(token)
            prefix_hash = extend_hash(prefix_hash, proposals[i] if i < num_proposals else token)
        return picks
