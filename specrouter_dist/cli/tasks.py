"""``specrouter tasks``: find the tasks in a log of prompts, and train a drafter for each."""

import typer

from specrouter_dist.cli import tasks_align, tasks_fit

app = typer.Typer(help="Find the tasks in a log of prompts, and align drafters with them.")
app.command("fit")(tasks_fit.fit)
app.command("align")(tasks_align.align)
