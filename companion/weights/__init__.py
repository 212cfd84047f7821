"""Which weights there are, and whether they may be trusted."""
