"""Where the text of a request ends: at a stop id, or when a stop string is complete."""

from collections.abc import Sequence

from specrouter_dist.links.control import Submit
from specrouter_dist.speculation.ending import Ending, StopIds
from specrouter_dist.text.stops import OutputText
from specrouter_dist.text.tokenizer import Tokenizer


class _StopStrings:
    """Ends with the first stop id or stop string, whichever comes first."""

    def __init__(self, stop_ids: StopIds, text: OutputText) -> None:
        self._stop_ids = stop_ids
        self._text = text

    def cut(self, tokens: Sequence[int]) -> int | None:
        by_id = self._stop_ids.cut(tokens)
        piece = self._text.push(tokens if by_id is None else tokens[:by_id])
        return by_id if piece.stop is None else piece.num_tokens


def make_ending(tokenizer: Tokenizer, submit: Submit) -> Ending:
    """The ending that the request asks for. Text is only made when there are stop strings."""
    sampling = submit.sampling
    stop_ids = StopIds(sampling.stop_token_ids)
    if not sampling.stop:
        return stop_ids
    text = OutputText(tokenizer.detokenizer(), sampling.stop, min_tokens=sampling.min_tokens)
    ending = _StopStrings(stop_ids, text)
    ending.cut(submit.output)
    return ending
