"""Hostile inputs, generated from a seed and tried: each is refused by one of our errors, or loads as what it is."""
