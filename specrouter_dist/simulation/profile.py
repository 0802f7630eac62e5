"""What a user writes to have a pool simulated: members, agreements, hops, requests, failures.

All times are of the user's own hardware, measured or assumed; nothing here is looked up.
"""

from bisect import bisect_left
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from specrouter_dist.config import (
    MAX_AGREEING_MEMBERS,
    MAX_SEED,
    Agreement,
    Name,
    Plan,
    Share,
    UserModel,
    check_agreements,
)
from specrouter_dist.errors import ConfigError, NotFoundError
from specrouter_dist.pools.yaml_files import read_yaml
from specrouter_dist.validation import did_you_mean, one_of, validated

PROFILES_DIRECTORY = Path(__file__).parent / "profiles"
DEFAULT_RUNNER_UP_AGREEMENT = 0.35
"""Between the pairs of the embedded pool it is 0.28 to 0.39."""

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class StepTime(UserModel):
    """Time of one forward of a member, by the rows fed, the sessions in the batch and their
    contexts.

    ``base_ms + per_row_ms * rows + per_session_ms * (sessions - 1) + per_context_token_ms *
    context``; or, in place of the first two, ``table_ms``: times at some numbers of rows, linear
    between them, with the slope of the last two beyond. ``context``: tokens in the KV caches of
    all sessions of the batch together, which attention reads once a forward.
    """

    base_ms: NonNegative = 0.0
    per_row_ms: NonNegative = 0.0
    per_session_ms: NonNegative = 0.0
    per_context_token_ms: NonNegative = 0.0
    table_ms: dict[PositiveInt, Positive] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _formula_or_table(self) -> Self:
        if bool(self.table_ms) == (self.base_ms + self.per_row_ms > 0):
            raise ValueError(
                "either base_ms and per_row_ms (not both 0) or table_ms is needed, "
                f"got base_ms={self.base_ms}, per_row_ms={self.per_row_ms}, "
                f"table_ms={self.table_ms or 'none'}"
            )
        return self

    def us(self, num_rows: int, num_sessions: int, context_tokens: int = 0) -> float:
        """Microseconds of a forward of ``num_rows`` in all, for ``num_sessions`` that hold
        ``context_tokens`` in all."""
        rows_ms = self.base_ms + self.per_row_ms * num_rows
        if self.table_ms:
            rows_ms = _interpolated(sorted(self.table_ms.items()), num_rows)
        sessions_ms = self.per_session_ms * (num_sessions - 1)
        return 1e3 * (rows_ms + sessions_ms + self.per_context_token_ms * context_tokens)


def _interpolated(points: list[tuple[int, float]], at: int) -> float:
    if len(points) == 1 or at <= points[0][0]:
        return points[0][1]
    above = min(max(1, bisect_left(points, (at, 0.0))), len(points) - 1)
    (low, low_ms), (high, high_ms) = points[above - 1], points[above]
    return max(0.0, low_ms + (high_ms - low_ms) * (at - low) / (high - low))


class MemberProfile(UserModel):
    """A model, where it runs and how fast."""

    name: Name
    role: Literal["target", "drafter"] = "drafter"
    device: Name | None = None
    """Members that name the same device take turns on it; None: a device of its own."""
    replicas: int = Field(default=1, ge=1, le=100_000)
    """Replica ``i`` runs on the ``i``-th copy of its device."""
    step: StepTime
    draft_token_ms: Positive | None = None
    """Time of each further token drawn in the same step; None: as a step of one row."""

    def draft_us(self, num_sessions: int, context_tokens: int = 0) -> float:
        """Microseconds to draw one further token for each of ``num_sessions`` that hold
        ``context_tokens`` in all."""
        step_us = self.step.us(num_sessions, num_sessions, context_tokens)
        if self.draft_token_ms is None:
            return step_us
        return 1e3 * self.draft_token_ms + step_us - self.step.us(1, 1)


class SimulatedAgreement(Agreement):
    """How often two members pick the same token after the same prefix, and how that varies."""

    burstiness: Share = 0.0
    """0: every position is alike. Above: half of the text is easy and half is hard, and agreement
    there is higher and lower than ``agreement`` by this share of what is possible."""
    runner_up_agreement: Share = DEFAULT_RUNNER_UP_AGREEMENT
    """Where the picks differ: how often the draft's next best is the verifier's pick. It counts for
    outcome drafting."""


class Hop(UserModel):
    """One-way delay between two members on different devices."""

    between: tuple[Name, Name]
    hop_us: NonNegative


class Workload(UserModel):
    """The requests. Exactly one of ``concurrency`` and ``rate_per_s`` is given."""

    num_requests: int = Field(default=100, ge=1, le=1_000_000)
    concurrency: int | None = Field(default=None, ge=1)
    """So many requests run at any time: a new one begins when one ends."""
    rate_per_s: Positive | None = None
    """Requests arrive at random (a Poisson process), so many a second on average."""
    prompt_tokens: int = Field(default=64, ge=1, le=1_000_000)
    output_tokens: int = Field(default=128, ge=1, le=1_000_000)

    @model_validator(mode="after")
    def _one_kind_of_arrival(self) -> Self:
        if (self.concurrency is None) == (self.rate_per_s is None):
            raise ValueError(
                "exactly one of concurrency and rate_per_s is needed, "
                f"got concurrency={self.concurrency}, rate_per_s={self.rate_per_s}"
            )
        return self


class Failure(UserModel):
    """A member is lost, with all that it holds, and comes back empty.

    Requests of a lost target go on from their tokens on another replica, or wait for this one;
    requests of a lost drafter go on with what is left of their chain.
    """

    member: Name
    replica: int | None = Field(default=None, ge=0)
    """None: all of them."""
    at_s: NonNegative
    down_s: Positive


class Profile(UserModel):
    """A pool that is to be simulated, and what is asked of it."""

    name: Name
    description: str = ""
    """What the figures rest on: measured where, or assumed."""
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    """Of the texts and the arrivals."""
    members: tuple[MemberProfile, ...] = Field(min_length=1, max_length=MAX_AGREEING_MEMBERS)
    """Fastest first; the target is the last."""
    agreements: tuple[SimulatedAgreement, ...] = ()
    """Pairs that are not given follow from those that are, and are as free as those leave them."""
    span_tokens: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 16.0
    """Mean length of easy and of hard stretches of text, where a pair has ``burstiness``."""
    hop_us: NonNegative = 100.0
    """One-way delay between members on different devices."""
    hops: tuple[Hop, ...] = ()
    """Pairs with another delay."""
    workload: Workload
    failures: tuple[Failure, ...] = ()
    plan: Plan | None = None
    """None: the router chooses, from what it measures in the simulation."""

    @model_validator(mode="after")
    def _members_make_a_pool(self) -> Self:
        names = [member.name for member in self.members]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"members: names must differ, these occur twice: {doubled}")
        targets = [member.name for member in self.members if member.role == "target"]
        if targets != names[-1:]:
            raise ValueError(
                f"members: the last, and only the last, has role 'target', got {targets or 'none'}"
            )
        return self

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        names = [member.name for member in self.members]
        used = [("hops", name) for hop in self.hops for name in hop.between]
        used += [("failures", failure.member) for failure in self.failures]
        used += [("plan.chain", name) for name in (self.plan.chain if self.plan else ())]
        for field, name in used:
            if name not in names:
                hint = did_you_mean(name, names)
                raise ValueError(f"{field}: no member {name!r}{hint}; {one_of(names)}")
        return self

    @model_validator(mode="after")
    def _pairs_are_sound(self) -> Self:
        names = [member.name for member in self.members]
        check_agreements(self.agreements, names, "agreements")
        if any(hop.between[0] == hop.between[1] for hop in self.hops):
            raise ValueError("hops: 'between' needs two different members")
        return self

    @model_validator(mode="after")
    def _plan_can_run(self) -> Self:
        chain = self.plan.chain if self.plan else ()
        order = [member.name for member in self.members]
        if chain and chain[-1] != order[-1]:
            raise ValueError(f"plan.chain: ends in {chain[-1]!r}, must end in {order[-1]!r}")
        return self

    @model_validator(mode="after")
    def _failures_can_happen(self) -> Self:
        for failure in self.failures:
            replicas = self.member(failure.member).replicas
            if failure.replica is not None and failure.replica >= replicas:
                raise ValueError(
                    f"failures: {failure.member!r} has replicas 0 to {replicas - 1}, "
                    f"got {failure.replica}"
                )
        return self

    @property
    def target(self) -> MemberProfile:
        """The member whose output is promised."""
        return self.members[-1]

    def member(self, name: str) -> MemberProfile:
        """The member of that name; the validators have seen that there is one."""
        return next(member for member in self.members if member.name == name)

    def device_of(self, member: MemberProfile) -> str:
        """The device that the member runs on."""
        return member.device or member.name

    def one_way_us(self, a: str, b: str) -> float:
        """Delay of a message between two members."""
        if self.device_of(self.member(a)) == self.device_of(self.member(b)):
            return 0.0
        hops = (hop.hop_us for hop in self.hops if set(hop.between) == {a, b})
        return next(hops, self.hop_us)


def available_profiles() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(path.stem for path in PROFILES_DIRECTORY.glob("*.yaml"))


def load_profile(name_or_path: str) -> Profile:
    """The profile of that name, or of that file (anything with a slash or a suffix).

    Raises:
        NotFoundError: no such profile or file.
        ConfigError: the file is wrong; one line with file, field and what would be right.
    """
    file = PROFILES_DIRECTORY / f"{name_or_path}.yaml"
    if "/" in name_or_path or Path(name_or_path).suffix in (".yaml", ".yml", ".json"):
        file = Path(name_or_path)
        if not file.is_file():
            raise NotFoundError(f"profile: no file {name_or_path!r}", field="profile")
    elif not file.is_file():
        known = available_profiles()
        hint = did_you_mean(name_or_path, known)
        raise NotFoundError(
            f"profile: no profile {name_or_path!r}{hint}; {one_of(known)}, or a file (.yaml, "
            ".json)",
            field="profile",
        )
    return validated(Profile, read_yaml(file), error=ConfigError, where=str(file))
