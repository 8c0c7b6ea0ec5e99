"""Workers have what the driver has: environment, `sys.path`, directory, the interpreter's flags, and one hash seed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PRELUDE = """
    import os, signal, sys, time, warnings
    import miniray

    def seen(_=None):
        return {
            "environment": (os.environ.get("OWN"), os.environ.get("LEFT")),
            "path": [path for path in sys.path if path.endswith("own place")],
            "directory": os.getcwd(),
            "flags": tuple(sys.flags),
            "options": (sys.warnoptions, sys._xoptions, sys.argv),
        }

    def hash_and_pid(_=None):
        time.sleep(0.01)
        return hash("x"), os.getpid()

    @miniray.remote
    class Actor:
        def see(self, function):
            return function()
"""

AT_INIT = PRELUDE + """
    os.environ["OWN"] = "at init"
    del os.environ["LEFT"]
    sys.path.append("/an/own place")
    os.chdir(sys.argv[1])
    here = seen()
    assert miniray.get(miniray.remote(seen).remote()) == here
    assert miniray.get(Actor.remote().see.remote(seen)) == here

    hashes = dict(miniray.get([miniray.remote(hash_and_pid).remote() for _ in range(10)]))
    with miniray.Pool(2) as pool:
        assert pool.apply(seen) == here
        for _ in range(2):  # before and after
            found = pool.map(hash_and_pid, range(10), 1)
            hashes.update({value: pid for value, pid in found})
            for worker in pool._pool:
                os.kill(worker.pid, signal.SIGKILL)
    assert len(hashes) == 1, hashes
    print(*hashes, hash("x"))
"""

LATER = PRELUDE + """
    place = sys.argv[1]
    miniray.init(num_cpus=1)
    before = seen()
    earlier = Actor.remote()
    assert miniray.get(earlier.see.remote(seen)) == before

    os.environ["OWN"] = "later"
    del os.environ["LEFT"]
    sys.path.append(os.path.join(place, "own place"))
    os.chdir(place)
    import own_module
    here = seen()
    assert here != before
    assert miniray.get(Actor.remote().see.remote(own_module.read)) == "read from here"
    with miniray.Pool(1, own_module.prepare) as pool:
        assert pool.apply(seen) == here
        assert pool.apply(own_module.read) == "read from here"
        assert pool.apply(own_module.prepared) == [1]
        os.environ["OWN"] = "once more"
        assert pool.apply(seen) == here
        os.kill(pool._pool[0].pid, signal.SIGKILL)
        assert pool.apply(seen) == seen()

    @miniray.remote(max_restarts=1)
    class Restarted(Actor.__wrapped__):
        pass

    actor = Restarted.remote()
    made_with = seen()
    os.environ["OWN"] = "too late"
    miniray.kill(actor, no_restart=False)
    assert miniray.get(actor.see.options(max_task_retries=3).remote(seen)) == made_with

    def nested():
        os.environ["OWN"] = "nested"
        return miniray.get(Actor.remote().see.remote(seen))["environment"]

    assert miniray.get(Actor.remote().see.remote(nested)) == ("nested", None)
    assert miniray.get(earlier.see.remote(seen)) == before
    of_a_task = miniray.get(miniray.remote(seen).remote())
    assert of_a_task == {**before, "path": of_a_task["path"]}
    os.environ["OWN"], os.environ["LEFT"] = "at first", "at first"
    sys.path.pop()
    os.chdir(before["directory"])
    assert miniray.get(Actor.remote().see.remote(seen)) == before
    print("seen")
"""

ADDED = PRELUDE + """
    miniray.init(num_cpus=1)
    earlier = miniray.Pool(1)
    assert earlier.apply(seen) == seen()

    @miniray.remote
    def imports():
        import own_module
        return own_module.prepared()

    @miniray.remote
    def kind(thing, same=None):
        return type(thing).__module__

    @miniray.remote
    def nested(refs):
        return miniray.get([imports.remote(), kind.remote(*miniray.get(refs))])

    @miniray.remote
    def order():
        return [os.path.basename(path) for path in sys.path]

    try:
        miniray.get(imports.remote())
    except ModuleNotFoundError:
        pass
    assert miniray.get(kind.remote(1)) == "builtins"
    length = len(miniray.get(order.remote()))

    os.chdir(sys.argv[1])
    sys.path.append("own place")
    assert miniray.get(imports.remote()) == []
    from own_module import Thing, prepared
    assert miniray.get(kind.remote(Thing())) == "own_module"
    assert miniray.get(kind.remote(miniray.put(Thing()), same=Thing())) == "own_module"
    assert miniray.get(miniray.remote(prepared).remote()) == []
    assert miniray.get(nested.remote([miniray.put(Thing())])) == [[], "own_module"]
    assert earlier.map(type, [Thing()]) == [Thing] and earlier.apply(prepared) == []

    sys.path.insert(0, os.path.abspath("before"))
    found = miniray.get(order.remote())
    assert (found[0], found[-1], len(found)) == ("before", "own place", length + 2), found
    del sys.path[0]
    assert miniray.get(order.remote()) == found, "what one has brought may be in use"

    class Unsendable:
        def __reduce__(self):
            raise ValueError("never")

    def wrong(unsendable=Unsendable()):
        pass

    try:
        miniray.remote(wrong).remote()
    except miniray.errors.SerializationError as error:
        assert str(error).startswith("function wrong -> its default 0: never\\n  called    at "), error
    earlier.terminate()
    print("found")
"""

MODULE = """
found = []

class Thing:
    pass

def prepare():
    found.append(1)

def prepared():
    return found

def read():
    with open("a file") as file:
        return file.read()
"""


def run(tmp_path: Path, source: str, flags: list[str], **variables: str) -> str:
    path = tmp_path / "driver.py"
    path.write_text(textwrap.dedent(source))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OWN": "at first", "LEFT": "at first", **variables}
    done = subprocess.run(
        [sys.executable, *flags, str(path), str(tmp_path / "place")], capture_output=True, text=True,
        env=environment, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("flags", "seed"),
    [(["-X", "faulthandler"], ""), (["-O", "-B", "-W", "error", "-X", "faulthandler", "-X", "utf8"], "7")],
)
def test_workers_begin_with_what_the_driver_has(tmp_path, flags, seed):
    """And strings have one hash in all of them: the driver's, where it can be known."""
    (tmp_path / "place").mkdir()
    variables = {"PYTHONHASHSEED": seed} if seed else {}
    theirs, own = run(tmp_path, AT_INIT, flags, **variables).split()
    assert not seed or theirs == own


def test_tasks_find_modules_where_their_caller_does(tmp_path):
    """`sys.path` may have grown since `init`, and the function may have been called before that."""
    (tmp_path / "place" / "own place").mkdir(parents=True)
    (tmp_path / "place" / "own place" / "own_module.py").write_text(MODULE)
    assert run(tmp_path, ADDED, ["-W", "error", "-X", "faulthandler"]) == "found\n"


def test_actors_and_pools_are_made_with_what_their_maker_has_then(tmp_path):
    place = tmp_path / "place"
    (place / "own place").mkdir(parents=True)
    (place / "a file").write_text("read from here")
    (place / "own place" / "own_module.py").write_text(MODULE)
    assert run(tmp_path, LATER, ["-W", "error", "-X", "faulthandler"]) == "seen\n"
