"""One sample in a fresh interpreter: `python -m bench.sample module:function '[arguments]'` prints JSON last."""

from __future__ import annotations

import json
import sys
from importlib import import_module


def main() -> None:
    module, _, name = sys.argv[1].partition(":")
    result = getattr(import_module(module), name)(*json.loads(sys.argv[2]))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
