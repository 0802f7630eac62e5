"""A request that was checked, ready to be admitted and run."""

from dataclasses import dataclass, replace
from typing import Self

from specrouter_dist.config import Plan
from specrouter_dist.serving.admission import Need
from specrouter_dist.serving.calls import Call
from specrouter_dist.serving.deadlines import Deadline
from specrouter_dist.serving.openai_answers import Answer
from specrouter_dist.serving.results import GenerateRequest


@dataclass(frozen=True, slots=True)
class Job:
    """One checked request."""

    call: Call
    """Takes what comes of it."""
    choices: tuple[GenerateRequest, ...]
    """All of the first prompt, then all of the second, ..."""
    answer: Answer
    is_echo_alone: bool
    """Nothing is to be generated."""
    stream: bool
    includes_usage: bool
    includes_usage_always: bool
    deadline: Deadline

    def planned(self, plan: Plan) -> Self:
        """The same job, to be run with this plan."""
        choices = tuple(replace(choice, plan=plan) for choice in self.choices)
        return replace(self, choices=choices)

    @property
    def need(self) -> Need:
        """What is asked for."""
        outputs = () if self.is_echo_alone else self.choices
        return Need(
            num_choices=len(self.choices),
            num_prompt_tokens=self.answer.num_prompt_tokens,
            max_output_tokens=sum(choice.sampling.max_tokens for choice in outputs),
        )
