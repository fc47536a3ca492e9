"""``python -m daps_tokenizer`` is ``daps-tokenize``."""

from daps_tokenizer.cli.main import main

main(prog_name="daps-tokenize")
