"""Where a round goes: what workers recorded, as shares of their time and as a Chrome trace."""
