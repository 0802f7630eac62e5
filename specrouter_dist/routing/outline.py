"""What people are told of a plan."""

from typing import Any, NamedTuple, Self

from specrouter_dist.config import Plan


class Outline(NamedTuple):
    """A chain, and the knobs of its edges that matter to people, each per edge, the drafter's
    first."""

    chain: tuple[str, ...]
    num_draft_tokens: tuple[int, ...]
    """That are waited for."""
    burst_tokens: tuple[int, ...]
    """So many are taken at most."""
    drafts_ahead: tuple[bool, ...]
    """The next block is drafted during the verify."""
    match_tokens: tuple[int, ...]
    """The verifier continues its own text where so many tokens match; 0: never."""

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """The same for all plans that differ in nothing that is told."""
        edges = plan.edges
        return cls(
            plan.chain,
            tuple(edge.patience for edge in edges),
            tuple(edge.burst for edge in edges),
            tuple(edge.drafts_ahead for edge in edges),
            tuple(edge.match_tokens for edge in edges),
        )

    def to_json(self) -> dict[str, Any]:
        """All fields by name."""
        return {name: list(values) for name, values in self._asdict().items()}
