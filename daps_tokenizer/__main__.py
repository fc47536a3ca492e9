"""``python -m daps_tokenizer`` is ``daps-tokenize``."""

import sys

try:
    from daps_tokenizer.cli.main import main

    main(prog_name="daps-tokenize")
except KeyboardInterrupt:  # while modules are imported
    sys.exit(130)
