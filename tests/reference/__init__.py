"""The codes and reconstructions that built-in models must keep giving: ``python -m tests.reference`` writes them."""
