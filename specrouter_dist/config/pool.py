"""A pool file."""

from typing import Self

from pydantic import Field, model_validator

from specrouter_dist.config.members import (
    LayerSkipMember,
    LoraMember,
    Member,
    ModelMember,
    QuantisedMember,
)
from specrouter_dist.config.synthetic import MAX_AGREEING_MEMBERS, SyntheticTexts, check_agreements
from specrouter_dist.config.values import UserModel


class PoolConfig(UserModel):
    """A pool file: the members that chains are made of."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    description: str = ""
    tasks: str | None = None
    """A partition of the pool's traffic (relative to the pool file), which ``specrouter tasks fit``
    has written: requests are told apart by what their prompts are about. None: they are not."""
    exact: bool = True
    """Exact mode: fixed shapes, so that the text does not depend on the batch or the chain."""
    synthetic: SyntheticTexts | None = None
    """What members with engine ``synthetic`` write. They are among themselves: no real model picks
    the same."""
    members: tuple[Member, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_target_and_distinct_names(self) -> Self:
        targets = [m.name for m in self.members if m.role == "target"]
        if len(targets) != 1:
            raise ValueError(f"members: exactly one has role 'target', got {targets or 'none'}")
        names = [m.name for m in self.members]
        doubled = sorted({n for n in names if names.count(n) > 1})
        if doubled:
            raise ValueError(f"members: names must differ, these occur twice: {doubled}")
        return self

    @model_validator(mode="after")
    def _others_are_of_members(self) -> Self:
        models = {m.name: m for m in self.members if isinstance(m, ModelMember)}
        for member in self.members:
            if isinstance(member, LayerSkipMember):
                target = self.target
                if member.of != target.name or target.engine == "general":
                    raise ValueError(
                        f"member {member.name!r}: of: must be the target {target.name!r}, which "
                        f"must run in the fast engine, got {member.of!r}, engine={target.engine!r}"
                    )
            elif isinstance(member, QuantisedMember):
                if member.of not in models:
                    raise ValueError(
                        f"member {member.name!r}: of: no member {member.of!r} of kind 'model'; "
                        f"accepted: {', '.join(models)}"
                    )
                member.as_model(models[member.of])
        return self

    @model_validator(mode="after")
    def _adapters_are_of_drafters(self) -> Self:
        kinds = {member.name: member.kind for member in self.members}
        drafters = [m for m in self.models if m.role == "drafter"]
        fast = [m.name for m in drafters if m.engine not in ("general", "synthetic")]
        for member in self.members:
            if isinstance(member, LoraMember) and member.of not in fast:
                is_target = member.of == self.target.name
                what = "the target" if is_target else f"kind {kinds.get(member.of, 'none')}"
                raise ValueError(
                    f"member {member.name!r}: of: must be a drafter with weights of its own in the "
                    f"fast engine, got {member.of!r} ({what}); accepted: "
                    f"{', '.join(fast) or 'none'}"
                )
        return self

    @model_validator(mode="after")
    def _synthetic_members_are_among_themselves(self) -> Self:
        drafters = [member for member in self.models if member.role == "drafter"]
        models = [*drafters, self.target]
        for member in models:
            if (member.engine == "synthetic") != (self.synthetic is not None):
                raise ValueError(
                    f"member {member.name!r}: engine: either all models have engine 'synthetic', "
                    "and the pool says what they write (synthetic), or none has, got "
                    f"engine={member.engine!r}, synthetic={'given' if self.synthetic else 'none'}"
                )
        if self.synthetic is not None:
            slims = [member.name for member in self.members if isinstance(member, LayerSkipMember)]
            names = [*(member.name for member in drafters), *slims, self.target.name]
            if len(names) > MAX_AGREEING_MEMBERS:
                raise ValueError(
                    f"members: at most {MAX_AGREEING_MEMBERS} with engine 'synthetic' or of kind "
                    f"'layer_skip', got {len(names)}"
                )
            check_agreements(self.synthetic.agreements, names, "synthetic.agreements")
        return self

    @property
    def target(self) -> ModelMember:
        """The member whose output is promised."""
        return next(m for m in self.members if isinstance(m, ModelMember) and m.role == "target")

    @property
    def models(self) -> tuple[ModelMember, ...]:
        """Members with weights of their own, in the file's order; quantised ones in full."""
        models = {m.name: m for m in self.members if isinstance(m, ModelMember)}
        return tuple(
            member.as_model(models[member.of]) if isinstance(member, QuantisedMember) else member
            for member in self.members
            if isinstance(member, ModelMember | QuantisedMember)
        )

    def member(self, name: str) -> Member:
        """The member of that name; ``StopIteration`` never: callers check chains first."""
        return next(m for m in self.members if m.name == name)
