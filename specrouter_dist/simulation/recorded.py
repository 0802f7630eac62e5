"""A text that was really written, with what every member would have drawn at each position.

Each pick is the member's own token after the target's text so far, so verifies by the target come
out as they do with the models. A stage in between that has left the target's text is taken to pick
there what it picks on it: as for replays (routing/replay.py), what two drafters agree on is what
they agree on along the target's text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from specrouter_dist.speculation.forks import Draw
from specrouter_dist.speculation.messages import TokenArray


@dataclass(frozen=True, slots=True)
class Recording:
    """The text of the only session of a pool, of which the profile states the plan.

    Attributes:
        start: the prompt.
        by_member: in the profile's order, the picks from the prompt's end to the text's.
        draws: of those members that are to prepare for outcomes, their picks with runner-ups.
    """

    start: TokenArray
    by_member: tuple[TokenArray, ...]
    draws: Mapping[int, Sequence[Draw]] = field(default_factory=dict)

    @property
    def num_output_tokens(self) -> int:
        """Length of the text behind the prompt."""
        return len(self.by_member[-1])

    def prompt(self, session: int) -> TokenArray:
        """The prompt."""
        return self.start

    def text(self, session: int, num_tokens: int) -> "Recording":
        """Itself: it is as long as it is."""
        return self

    def picks(
        self,
        member: int,
        position: int,
        prefix_hash: int,
        proposals: Sequence[int] = (),
        num_drafts: int = 0,
    ) -> TokenArray:
        """The member's tokens from ``position`` on, whatever was proposed."""
        first = position - len(self.start)
        end = first + len(proposals) + 1 + num_drafts
        assert 0 <= first < end <= self.num_output_tokens, "nobody has a pick there"
        return self.by_member[member][first:end]

    def draw(self, member: int, verifier: int, position: int, prefix_hash: int) -> Draw:
        """As recorded, whoever verifies it."""
        assert member in self.draws, "no runner-ups of this member were recorded"
        return self.draws[member][position - len(self.start)]
