"""``specrouter slim``: members that are the target without some of its layers."""

import typer

from specrouter_dist.cli import slim_search

app = typer.Typer(help="Members that are the target without some of its layers.")
app.command("search")(slim_search.search)


@app.callback()
def _root() -> None:
    """One command is a group, too."""
