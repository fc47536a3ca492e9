"""Anything that is an image to uint8 arrays, and back."""
