"""`python -m miniray.testing SEED`: run one seed again and tell its story; `SEED COUNT`: run many."""

import sys

from miniray.testing.seeds import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
