"""What fields have in common: bounds, and that unknown ones are refused."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_SEED = (1 << 64) - 1
MAX_COUNT = (1 << 32) - 1
"""Of what is counted in tokens: more than any context, and it fits every wire."""
TokenId = Annotated[int, Field(ge=0, lt=1 << 32)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]


class UserModel(BaseModel):
    """Unknown fields are refused, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)
