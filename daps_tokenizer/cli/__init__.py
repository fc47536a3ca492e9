"""``daps-tokenize``: one file a verb."""
