"""What a simulated pool asks of whoever knows what its members would write."""

from collections.abc import Sequence
from typing import Protocol

from specrouter_dist.speculation.forks import Draw
from specrouter_dist.speculation.messages import TokenArray


class Text(Protocol):
    """What the members would write in one session."""

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
            member: index in the profile.
            position: of the first pick.
            prefix_hash: of the tokens before it.
            proposals: tokens from ``position`` on.
            num_drafts: tokens to draw behind the last pick.

        Returns:
            ``len(proposals) + 1 + num_drafts`` tokens.
        """
        ...

    def draw(self, member: int, verifier: int, position: int, prefix_hash: int) -> Draw:
        """The member's token at ``position``, and the one that it would have drawn instead.

        Args:
            member: index in the profile.
            verifier: of the one that it drafts for.
            position: of the token.
            prefix_hash: of the tokens before it.
        """
        ...


class Texts(Protocol):
    """The texts of all sessions."""

    def prompt(self, session: int) -> TokenArray:
        """What the session starts from."""
        ...

    def text(self, session: int, num_tokens: int) -> Text:
        """What follows, up to position ``num_tokens``."""
        ...
