"""Models by hub name: fetched once into the hub's cache, found there when offline."""

from pathlib import Path

from specrouter_dist.config import ModelMember
from specrouter_dist.errors import NotFoundError

_FILES = ["*.json", "*.jinja", "*.safetensors", "tokenizer.model"]
_WEIGHTS_OF_OLDER_MODELS = ["pytorch_model*.bin"]
_CONNECT_TIMEOUT_S = 10.0


def fetch(member: ModelMember, *, expected_directory: Path) -> Path:
    """The directory of a model that is named by its hub name.

    Raises:
        NotFoundError: the model is in neither the cache nor the hub, or the hub is out of reach.
    """
    # Imported here: these cost more than everything else a command without hub models does.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def download(patterns: list[str]) -> Path:
        return Path(
            snapshot_download(
                member.model,
                revision=member.revision,
                allow_patterns=patterns,
                etag_timeout=_CONNECT_TIMEOUT_S,
            )
        )

    try:
        directory = download(_FILES)
        if not any(directory.glob("*.safetensors")):
            directory = download(_FILES + _WEIGHTS_OF_OLDER_MODELS)
        return directory
    except HFValidationError:
        reason = "it is no hub name (owner/name) either"
    except GatedRepoError:
        reason = "its owner grants access on the hub: accept the terms there and set HF_TOKEN"
    except RevisionNotFoundError:
        reason = f"the hub has the model, but no revision {member.revision!r}"
    except RepositoryNotFoundError:
        reason = "the hub has no such model, or only for those who set HF_TOKEN"
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as problem:
        reason = (
            f"the hub is out of reach ({type(problem).__name__}) and its cache lacks the model: "
            f"run `hf download {member.model}` where there is a network, or give a directory"
        )
    raise NotFoundError(
        f"members.{member.name}.model: {member.model!r} is no directory ({expected_directory}); "
        f"{reason}",
        field="model",
    )
