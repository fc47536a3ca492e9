"""How fast: latency, memory and parity."""
