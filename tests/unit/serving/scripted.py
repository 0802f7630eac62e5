"""A client without a target: the test says what the target sends."""

import threading
from array import array
from collections.abc import Callable, Iterable, Sequence

from specrouter_dist.engine.interface import TokenLogprobs
from specrouter_dist.links.control import Failed, FinishReason, Output, Submit
from specrouter_dist.speculation.messages import TOKEN_TYPECODE

Message = Output | Failed

STATS: dict[str, object] = {
    "chain": ("small", "target"),
    "histograms": ((3, (1, 0, 2, 0)),),
    "levels": (("small", "target", 9, 4, 3, 2),),
    "device_us": 6000,
    "num_rounds": 4,
    "queued_us": 1500,
    "prefill_us": 2500,
    "plans": (
        (0, (("target",), (), (), (), ())),
        (2, (("small", "target"), (3,), (3,), (False,), (6,))),
    ),
}
"""Three verifying rounds: 0, 2 and 2 of 3 proposals accepted."""


def output(
    submit: Submit,
    start: int,
    tokens: Sequence[int],
    finish_reason: FinishReason | None = None,
    logprobs: tuple[TokenLogprobs, ...] = (),
    prompt_logprobs: tuple[TokenLogprobs, ...] = (),
) -> Output:
    """A round of the target."""
    return Output(
        request=submit.request,
        start=start,
        tokens=array(TOKEN_TYPECODE, tokens),
        finish_reason=finish_reason,
        logprobs=logprobs,
        stats=STATS if finish_reason else None,
        prompt_logprobs=prompt_logprobs,
    )


class ScriptedClient:
    """Answers every request as ``script`` says, from another thread, as real clients do."""

    def __init__(self, script: Callable[[Submit], Iterable[Message]]) -> None:
        self.script = script
        self.submits: list[Submit] = []
        self.cancelled: list[int] = []
        self._threads: list[threading.Thread] = []

    def submit(self, submit: Submit, receive: Callable[[Message], None]) -> None:
        """Starts the script's answer."""
        self.submits.append(submit)

        def answer() -> None:
            for message in self.script(submit):
                receive(message)

        thread = threading.Thread(target=answer)
        self._threads.append(thread)
        thread.start()

    def cancel(self, request: int) -> None:
        """Takes note."""
        self.cancelled.append(request)

    def close(self) -> None:
        """Waits for the answers' ends."""
        for thread in self._threads:
            thread.join()


ROUNDS = ([10, 11, 12], [13], [14, 15])
"""The tokens of a plain answer, round by round."""


def plain_answer(submit: Submit) -> Iterable[Message]:
    """Three rounds, of which the last ends by length."""
    start = 0
    for tokens in ROUNDS:
        last = tokens is ROUNDS[-1]
        yield output(submit, start, tokens, "length" if last else None)
        start += len(tokens)
