"""transformers as a worker: one setting, one request at a time.

    python -m benchmarks.peers.transformers_worker --target DIR --assistant DIR --length 4

Runs in transformers' own virtual environment (setup.sh).
"""

import argparse
import time
from typing import Any, Protocol

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from benchmarks.peers.lines import Answer, Request, claim_stdout, serve

_NO_LIMITS = {"top_k": 0, "top_p": 1.0}
_CONTINUOUS = ContinuousBatchingConfig(
    num_blocks=8, max_batch_tokens=512, max_requests_per_batch=1, allow_block_sharing=False
)
"""2,048 tokens of cache (by itself it takes 0.9 of all memory), and no prefix cache."""


class _Arrivals:
    """A streamer that keeps the time of the first new token. The prompt comes before it."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def put(self, _: Any) -> None:
        self.times_s.append(time.perf_counter())

    def end(self) -> None:
        pass


class _Drafts:
    """Counts what an assistant proposes and what is accepted of it.

    ``generate`` reports neither, so its candidate generator is wrapped.
    """

    def __init__(self, model: Any) -> None:
        self.num_drafted = self.num_accepted = 0
        self._make = model._get_candidate_generator
        model._get_candidate_generator = self._wrapped

    def _wrapped(self, *arguments: Any, **options: Any) -> Any:
        generator = self._make(*arguments, **options)
        propose, update = generator.get_candidates, generator.update_candidate_strategy

        def get_candidates(input_ids: torch.Tensor, *others: Any, **more: Any) -> Any:
            candidates = propose(input_ids, *others, **more)
            self.num_drafted += candidates[0].shape[1] - input_ids.shape[1]
            return candidates

        def update_candidate_strategy(input_ids: Any, scores: Any, num_matches: Any) -> Any:
            self.num_accepted += int(num_matches)
            return update(input_ids, scores, num_matches)

        generator.get_candidates = get_candidates
        generator.update_candidate_strategy = update_candidate_strategy
        return generator


class Generator(Protocol):
    """One setting."""

    def __call__(self, request: Request) -> Answer: ...


class Alone:
    """``generate``, and what speculation is asked for by ``options``."""

    def __init__(self, model: Any, **options: Any) -> None:
        self._model = model
        self._options = options
        self._drafts = _Drafts(model) if options else None

    def __call__(self, request: Request) -> Answer:
        prompt = torch.tensor([request.prompt_ids])
        drafts = self._drafts
        if drafts is not None:
            drafts.num_drafted = drafts.num_accepted = 0
        torch.manual_seed(request.seed)
        arrivals = _Arrivals()
        started_s = time.perf_counter()
        output = self._model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=request.max_tokens,
            min_new_tokens=request.max_tokens if request.ignore_eos else None,
            streamer=arrivals,
            **_sampling(request),
            **self._options,
        )
        ended_s = time.perf_counter()
        return Answer(
            output[0, prompt.shape[1] :].tolist(),
            1e3 * (arrivals.times_s[1] - started_s),
            1e3 * (ended_s - started_s),
            *(() if drafts is None else (drafts.num_drafted, drafts.num_accepted)),
        )


class Continuous:
    """Its continuous batching, with a batch of one. A manager has one temperature."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._manager: Any = None
        self._key: tuple[float, bool] | None = None

    def __call__(self, request: Request) -> Answer:
        self._prepare(request)
        started_s = time.perf_counter()
        name = self._manager.add_request(
            request.prompt_ids, max_new_tokens=request.max_tokens, record_timestamps=True
        )
        output = self._manager.get_result(request_id=name)
        ended_s = time.perf_counter()
        if output is None or output.error:
            raise RuntimeError(f"continuous batching failed: {output and output.error}")
        first_ms = 1e3 * (output.timestamps[0] - started_s)
        return Answer(output.generated_tokens, first_ms, 1e3 * (ended_s - started_s))

    def _prepare(self, request: Request) -> None:
        key = (request.temperature, request.ignore_eos)
        if self._key == key:
            return
        if self._manager is not None:
            self._manager.stop(block=True)
        # -1: no id ends the text.
        eos_id = -1 if request.ignore_eos else self._model.generation_config.eos_token_id
        config = GenerationConfig(eos_token_id=eos_id, **_sampling(request))
        self._manager = self._model.init_continuous_batching(config, _CONTINUOUS)
        self._manager.start()
        self._key = key


def _sampling(request: Request) -> dict[str, Any]:
    if request.temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": request.temperature, **_NO_LIMITS}


def make_generator(arguments: argparse.Namespace) -> Generator:
    """The model with the setting that is asked for."""
    model = AutoModelForCausalLM.from_pretrained(arguments.target, dtype=arguments.dtype).eval()
    if arguments.continuous:
        return Continuous(model)
    if arguments.lookup:
        return Alone(model, prompt_lookup_num_tokens=arguments.lookup)
    if arguments.assistant is None:
        return Alone(model)
    assistant = AutoModelForCausalLM.from_pretrained(
        arguments.assistant, dtype=arguments.dtype
    ).eval()
    # The assistant's own configuration is where generate() looks for these.
    assistant.generation_config.num_assistant_tokens = arguments.length
    assistant.generation_config.num_assistant_tokens_schedule = "constant"
    return Alone(model, assistant_model=assistant)


def main() -> None:
    """Loads, then serves."""
    answers = claim_stdout()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True, help="the model's directory")
    parser.add_argument("--dtype", default="auto", help="to compute in; auto: the weights' own")
    parser.add_argument("--assistant", help="a drafter's directory")
    parser.add_argument("--length", type=int, help="tokens that the assistant drafts")
    parser.add_argument("--lookup", type=int, help="tokens that prompt lookup proposes")
    parser.add_argument("--continuous", action="store_true", help="continuous batching")
    arguments = parser.parse_args()
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    serve(answers, versions, make_generator(arguments))


if __name__ == "__main__":
    main()
