"""For scripts of `test_one_import.py`: under which import they run, and what their snippets say.

    python one_import_calls.py standard|module|names
"""

from __future__ import annotations

import json
import sys

WAY = sys.argv[1]
if WAY == "standard":
    import multiprocessing as mp
    import multiprocessing.pool
    from concurrent.futures import ProcessPoolExecutor as Executor
elif WAY == "module":
    import miniray.multiprocessing as mp
    from miniray import Executor
else:
    import multiprocessing as mp

    import miniray

    Executor, mp.Pool, mp.pool = miniray.Executor, miniray.Pool, miniray.pool

snippets = {}
settings = []  # snippets of what only a process that is forked has: where the standard pool forks, ours does


def snippet(run):
    snippets[run.__name__] = run
    return run


def setting(run):
    settings.append(run.__name__)
    return snippet(run)


def said(use):
    """What it returns, or the type and the text of what it raises."""
    try:
        return f"returned {use()!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


def tell():
    print(json.dumps({name: said(run) for name, run in snippets.items() if WAY != "names" or name not in settings}))


__all__ = ["WAY", "Executor", "mp", "said", "setting", "snippet", "tell"]
