"""What a user may set of a search."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from specrouter_dist.config import Finite, UserModel

MOST_TEXTS = 64
"""Of a half; routers join the readings of so many requests."""

_Share = Annotated[float, Field(gt=0.0, lt=1.0, allow_inf_nan=False)]


class SearchSettings(UserModel):
    """Of one search. Another value of any field but ``skip`` and ``max_evaluations`` is another
    search: what was found before is of no use to it."""

    skip: tuple[Annotated[float, Field(gt=0.0, lt=1.0, allow_inf_nan=False)], ...] = Field(
        default=(0.45,), min_length=1
    )
    """Shares of the target's layers that masks leave out; a mask is found for each."""
    max_evaluations: int = Field(default=64, ge=1, le=100_000)
    """Masks that are tried for each share."""
    num_prompts: int = Field(default=48, ge=2, le=2 * MOST_TEXTS)
    """Half of them are searched on, the other half is for the report."""
    max_tokens: int = Field(default=64, ge=1, le=4096)
    """Most tokens that the target writes behind each prompt."""
    temperature: Finite = Field(default=0.0, ge=0.0, le=100.0)
    """Of the target's texts, and of the noise that all members share."""
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    """Of every random choice."""

    @model_validator(mode="after")
    def _budgets_differ(self) -> Self:
        percents = [round(100 * skip) for skip in self.skip]
        if len(set(percents)) < len(percents):
            raise ValueError(f"skip: shares must differ by a percent, got {list(self.skip)}")
        return self
