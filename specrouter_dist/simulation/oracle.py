"""Synthetic members: what each would pick, with the agreements that the profile states.

Picks are those of :mod:`~specrouter_dist.speculation.agreeing`; a session is a text.

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
"""

from array import array
from collections.abc import Mapping, Sequence

import numpy as np

from specrouter_dist.simulation.profile import DEFAULT_RUNNER_UP_AGREEMENT, Profile
from specrouter_dist.simulation.texts import Text
from specrouter_dist.speculation.agreeing import AgreedText, JointLaw, seed_key, text_key
from specrouter_dist.speculation.forks import Draw
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.speculation.noise import mix64

_NOBODYS_TOKEN = (1 << 32) - 1
"""There is no group of its number."""
_GAP = 1.0


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
        self._seed = seed_key(profile.seed)
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
            JointLaw(names, _shifted(profile, self.index, sign), where)
            for where, sign in kinds.items()
        ]

    def prompt(self, session: int) -> TokenArray:
        """The same for all: what follows it differs."""
        return self._prompt

    def text(self, session: int, num_tokens: int) -> Text:
        """What the members would write in that session, up to position ``num_tokens``."""
        key = text_key(self._seed, session)
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


class DrawnText(AgreedText):
    """What the members would write in one session, runner-ups included."""

    __slots__ = ("_runner_ups",)

    def __init__(
        self,
        key: int,
        laws: Sequence[JointLaw],
        stretches: bytes,
        runner_ups: Mapping[tuple[int, int], float],
    ) -> None:
        super().__init__(key, laws, stretches)
        self._runner_ups = runner_ups

    def draw(self, member: int, verifier: int, position: int, prefix_hash: int) -> Draw:
        """See :class:`Text`."""
        own, verifiers = (
            self.picks(index, position, prefix_hash)[0] for index in (member, verifier)
        )
        share = self._runner_ups.get((member, verifier), DEFAULT_RUNNER_UP_AGREEMENT)
        # Hashed once more than the picks: whether it is right says nothing of what they are.
        is_right = own != verifiers and mix64(mix64(prefix_hash ^ self._key)) < share * 2.0**64
        return Draw(own, verifiers if is_right else _NOBODYS_TOKEN, _GAP)
