"""Codes that a simulated robot follows: a Unitree G1 in MuJoCo, search with physics as the score, and a policy."""
