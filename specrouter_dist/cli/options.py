"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from specrouter_dist.config import Dtype


class BackendName(StrEnum):
    """Where a pool runs."""

    RAY = "ray"
    LOCAL = "local"


PoolOption = Annotated[
    str, typer.Option("--pool", help="A pool's name, or the path of a pool file (.yaml).")
]
ChainOption = Annotated[
    str,
    typer.Option(
        "--chain",
        help="Members joined by commas, drafter first, target last; 'auto': the router's choice.",
    ),
]
PromptOption = Annotated[str | None, typer.Option("--prompt", help="One prompt.")]
PromptsOption = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        help="A JSONL file; rows hold 'prompt', 'turns' (the first is used) or 'messages'. "
        "Their other keys are copied to the output.",
    ),
]
MaxTokensOption = Annotated[
    int, typer.Option("--max-tokens", help="Most tokens to generate for each prompt.")
]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", help="0 is greedy, 1 the model's own law.")
]
SeedOption = Annotated[
    int,
    typer.Option(
        "--seed",
        help="Key of the noise. The first prompt has this seed, further prompts seeds derived "
        "from it; each output carries its own.",
    ),
]
DtypeOption = Annotated[
    Dtype | None, typer.Option("--dtype", help="Replaces the dtype of every member.")
]
BackendOption = Annotated[
    BackendName,
    typer.Option("--backend", help="'ray': one actor per member; 'local': all in this process."),
]
ConcurrencyOption = Annotated[
    int, typer.Option("--concurrency", min=1, help="How many prompts run at a time.")
]
PromptLogArgument = Annotated[
    Path,
    typer.Argument(
        help="A JSONL file, or one gzipped (.gz); rows hold 'prompt', 'turns' (the first is used) "
        "or 'messages'. Other keys are ignored."
    ),
]
LossyOption = Annotated[
    str | None,
    typer.Option(
        "--lossy",
        help="The slim member before the target in --chain commits tokens by itself, so that the "
        "text is not the target's any more: accept=0.6,escalate=0.3,max_unverified_share=0.9 "
        "(docs/slim.md). What is left out is as here; '' leaves out all.",
    ),
]
TraceOption = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        help="A .json file: records where the time of each worker goes, for ui.perfetto.dev or "
        "chrome://tracing, and prints the shares.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
