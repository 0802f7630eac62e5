"""Everything a user writes: sampling parameters and pool files. Imports neither torch nor ray."""

from specrouter_dist.config.logs import (
    DEFAULT_LOG_FORMAT,
    LogFormat,
)
from specrouter_dist.config.members import (
    Dtype,
    LayerSkipMember,
    LookupMember,
    LoraMember,
    Member,
    ModelMember,
    QuantisedMember,
    Quantization,
)
from specrouter_dist.config.pool import (
    PoolConfig,
)
from specrouter_dist.config.requests import (
    EdgeKnobs,
    LossyParams,
    Plan,
    SamplingParams,
)
from specrouter_dist.config.synthetic import (
    MAX_AGREEING_MEMBERS,
    Agreement,
    SyntheticTexts,
    check_agreements,
)
from specrouter_dist.config.values import (
    MAX_COUNT,
    MAX_SEED,
    Finite,
    Name,
    Share,
    TokenId,
    UserModel,
)

__all__ = [
    "DEFAULT_LOG_FORMAT",
    "MAX_AGREEING_MEMBERS",
    "MAX_COUNT",
    "MAX_SEED",
    "Agreement",
    "Dtype",
    "EdgeKnobs",
    "Finite",
    "LayerSkipMember",
    "LogFormat",
    "LookupMember",
    "LoraMember",
    "LossyParams",
    "Member",
    "ModelMember",
    "Name",
    "Plan",
    "PoolConfig",
    "QuantisedMember",
    "Quantization",
    "SamplingParams",
    "Share",
    "SyntheticTexts",
    "TokenId",
    "UserModel",
    "check_agreements",
]
