"""What tasks, actors and pools print reaches the driver's stdout and stderr, line by line."""

from __future__ import annotations

import re

import pytest

SOURCE = """
    import logging, os, subprocess, sys, threading
    import miniray

    @miniray.remote
    def speak(x):
        print("hello", x)
        print("no end", end="")

    @miniray.remote
    def shout(x):
        sys.stderr.write(f"two\\nlines {x}\\n")
        logging.warning("logged")

    @miniray.remote
    class Actor:
        def __init__(self):
            print("made")

        def speak(self):
            thread = threading.Thread(target=print, args=("from a thread",))
            thread.start()
            thread.join()

    @miniray.remote
    def others():
        subprocess.run(["echo", "from a subprocess"], check=True)
        os.write(1, b"from C\\n")

    @miniray.remote(raw_output=True)
    def plain():
        print("plain")

    @miniray.remote
    def crash():
        print("last words")
        os._exit(1)

    def square(x):
        print("square", x)
        return x * x

    def pid():
        return os.getpid()

    miniray.init(num_cpus=1)
    if sys.argv[1] == "tasks":
        miniray.get(speak.remote(1))
        miniray.get(shout.remote(2))
        print("the driver's", flush=True)
        actor = Actor.remote()
        miniray.get(actor.speak.remote())
        miniray.get(others.remote())
        miniray.get(plain.remote())
        try:
            miniray.get(crash.options(max_retries=0).remote())
        except miniray.errors.WorkerCrashedError:
            pass
        miniray.get(speak.remote(3))
    elif sys.argv[1] == "pool":
        with miniray.Pool(1, print, ("begins",)) as pool:
            pool.map(square, range(3))
    elif sys.argv[1] == "executor":
        with miniray.Executor(1, initializer=print, initargs=("begins",)) as executor:
            list(executor.map(square, range(3)))
    else:
        @miniray.remote(num_cpus=0)
        def many(name):
            for i in range(1000):
                print(name * 50, i, "and", end=" ")
                print(i * i)
        miniray.get([many.remote(name) for name in "abcd"])
"""


def outputs_of(script, what):
    """(stdout, stderr) by lines, with an `N` for each pid."""
    driver = script(SOURCE, what)
    output, _ = driver.process.communicate(timeout=60)
    errors = driver.errors.read_text()
    assert driver.process.returncode == 0, errors
    return [re.sub(r"pid=\d+", "pid=N", text).splitlines() for text in (output, errors)]


def test_lines_of_tasks_and_actors_say_whose_they_are(script):
    output, errors = outputs_of(script, "tasks")
    assert output == [
        "(speak pid=N) hello 1",
        "(speak pid=N) no end",
        "the driver's",
        "(Actor pid=N) made",
        "(Actor pid=N) from a thread",
        "from a subprocess",
        "from C",
        "plain",
        "(crash pid=N) last words",
        "(speak pid=N) hello 3",
        "(speak pid=N) no end",
    ]
    assert errors == ["(shout pid=N) two", "(shout pid=N) lines 2", "(shout pid=N) WARNING:root:logged"]


@pytest.mark.parametrize("what", ["pool", "executor"])
def test_pools_and_executors_print_as_the_standard_ones_do(script, what):
    assert outputs_of(script, what) == [["begins", "square 0", "square 1", "square 2"], []]


def test_lines_of_several_workers_never_mix(script):
    output, errors = outputs_of(script, "many")
    assert not errors and len(output) == 4000
    for name in "abcd":
        mine = [line for line in output if name * 50 in line]
        assert mine == [f"(many pid=N) {name * 50} {i} and {i * i}" for i in range(1000)]
