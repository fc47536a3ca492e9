"""Comparisons that were made once, to decide something."""
