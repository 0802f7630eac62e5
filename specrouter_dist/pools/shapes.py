"""Shapes that come with the package: directories in Hugging Face format without weights."""

from pathlib import Path

from specrouter_dist.config import ModelMember
from specrouter_dist.errors import NotFoundError
from specrouter_dist.validation import did_you_mean, one_of

SHAPES_DIRECTORY = Path(__file__).parent / "shapes"


def available_shapes() -> list[str]:
    """Their names."""
    return sorted(path.name for path in SHAPES_DIRECTORY.iterdir())


def find(member: ModelMember, *, expected_directory: Path) -> Path:
    """The directory of a shape that is named by its name.

    Raises:
        NotFoundError: there is no such shape.
    """
    shapes = available_shapes()
    if member.model in shapes:
        return SHAPES_DIRECTORY / member.model
    raise NotFoundError(
        f"members.{member.name}.model: {member.model!r} is no directory ({expected_directory}) and "
        f"no shape{did_you_mean(member.model, shapes)}; {one_of(shapes)}, or a directory with "
        "config.json and tokenizer.json",
        field="model",
    )
