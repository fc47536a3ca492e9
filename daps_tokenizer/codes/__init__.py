"""Codes, the .daps file, and the layouts of tiles and windows."""
