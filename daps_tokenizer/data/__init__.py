"""Datasets: what is read, and datasets as codes."""
