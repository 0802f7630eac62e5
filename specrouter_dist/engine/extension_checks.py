"""Whether an extension fits its session."""

from specrouter_dist.engine.interface import Extension
from specrouter_dist.errors import EngineError


def end_of(extension: Extension) -> int:
    """The position behind the last that is fed, drafts included."""
    return extension.start + len(extension.tokens) + extension.num_drafts


def check_extension(extension: Extension, *, fed: int, reserved: int) -> None:
    """
    Args:
        extension: of a session.
        fed: positions of the session that have been.
        reserved: positions that may be.

    Raises:
        EngineError: it does not fit; names the field and what is accepted.
    """
    count, end = len(extension.tokens), end_of(extension)
    if count == 0 or not 0 <= extension.num_picks <= count:
        raise EngineError(f"num_picks: must be 0 to {count} (> 0), got {extension.num_picks}")
    if len(extension.followers) > count:
        raise EngineError(f"followers: at most {count}, got {len(extension.followers)}")
    if extension.num_drafts > 0 and extension.num_picks == 0:
        raise EngineError("num_drafts: drafts follow a pick, so num_picks must be above 0")
    if not 0 <= extension.start <= fed:
        raise EngineError(f"start: must be 0 to {fed}, got {extension.start}")
    if end > reserved:
        raise EngineError(f"tokens: {end} of the {reserved} positions reserved")
