"""How often the members of a synthetic pool agree."""

from collections.abc import Sequence

from pydantic import Field

from specrouter_dist.config.values import MAX_SEED, Name, Share, UserModel
from specrouter_dist.validation import did_you_mean, one_of

MAX_AGREEING_MEMBERS = 7
"""Models whose agreements are stated: their joint law has a probability for each way to group
them."""


class Agreement(UserModel):
    """How often two members pick the same token after the same prefix."""

    draft: Name
    verifier: Name
    agreement: Share


def check_agreements(agreements: Sequence[Agreement], names: Sequence[str], field: str) -> None:
    """
    Args:
        names: of the members with a model, fastest first, the target last.
        field: where the agreements stand.

    Raises:
        ValueError: a name is wrong, a pair is none or is given twice, or a member has no pair.
    """
    pairs = [(a.draft, a.verifier) for a in agreements]
    for name in (name for pair in pairs for name in pair):
        if name not in names:
            hint = did_you_mean(name, names)
            raise ValueError(f"{field}: no member {name!r}{hint}; {one_of(names)}")
    for draft, verifier in pairs:
        if names.index(draft) >= names.index(verifier):
            raise ValueError(
                f"{field}: {draft!r} cannot draft for {verifier!r}: members are listed "
                "fastest first, and a member drafts for later ones"
            )
        if pairs.count((draft, verifier)) > 1:
            raise ValueError(f"{field}: {draft!r} with {verifier!r} is given twice")
    for name in names:
        if len(names) > 1 and not any(name in pair for pair in pairs):
            raise ValueError(f"{field}: member {name!r} has none; it needs one at least")


class SyntheticTexts(UserModel):
    """What the members of a synthetic pool write: picks that agree as stated, whatever the weights.

    Every position is alike, and independent of the others.
    """

    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    """Of all texts."""
    agreements: tuple[Agreement, ...] = ()
    """Pairs that are not given follow from those that are, and are as free as those leave them."""
