"""How good: quality against picture formats."""
