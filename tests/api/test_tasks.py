"""Tasks: calls, options, several returns, refs as arguments, tasks within tasks, retries."""

from __future__ import annotations

import functools
import os
import time

import pytest
from quiescence import assert_quiet, eventually

import miniray
from miniray.errors import InfeasibleError, TaskError, WorkerCrashedError

pytestmark = pytest.mark.usefixtures("session")


@miniray.remote
def add(a, b=0, *rest, c=0):
    return a + b + sum(rest) + c


@miniray.remote
def pid():
    return os.getpid()


@miniray.remote
def fibonacci(n):
    if n < 2:
        return n
    return sum(miniray.get([fibonacci.remote(n - 1), fibonacci.remote(n - 2)]))


@miniray.remote
def deep(levels):
    return 0 if levels == 0 else 1 + miniray.get(deep.remote(levels - 1))


def test_a_call_returns_a_ref_at_once_and_get_its_value():
    ref = add.remote(1, 2, 3, c=4)
    assert isinstance(ref, miniray.ObjectRef)
    assert miniray.get(ref) == 10
    assert miniray.get(ref) == 10


def test_lists_and_tuples_of_refs_give_lists_in_order():
    refs = [add.remote(i) for i in range(300)]
    assert miniray.get(refs) == list(range(300))
    assert miniray.get(tuple(refs[:3])) == [0, 1, 2]
    assert miniray.get([refs[5], refs[5]]) == [5, 5]
    assert miniray.get([]) == []


def test_tasks_run_in_other_processes():
    pids = set(miniray.get([pid.remote() for _ in range(10)]))
    assert os.getpid() not in pids


def test_refs_as_arguments_are_resolved_before_the_call():
    first = add.remote(1)
    assert miniray.get(add.remote(first, first, c=add.remote(5))) == 7


def test_a_long_chain():
    ref = add.remote(0)
    for _ in range(500):
        ref = add.remote(ref, 1)
    assert miniray.get(ref) == 500


def test_refs_in_containers_are_passed_by_reference():
    @miniray.remote
    def look(box):
        assert isinstance(box["ref"], miniray.ObjectRef) and isinstance(box["list"][0], miniray.ObjectRef)
        return miniray.get(box["ref"]) + miniray.get(box["list"][0])

    ref = add.remote(20)
    assert miniray.get(look.remote({"ref": ref, "list": [miniray.put(3)]})) == 23


def test_refs_in_results_and_refs_to_refs():
    @miniray.remote
    def make(n):
        return [add.remote(i) for i in range(n)], {"put": miniray.put("inner")}

    refs, named = miniray.get(make.remote(4))
    assert miniray.get(refs) == [0, 1, 2, 3]
    assert miniray.get(named["put"]) == "inner"
    outer = miniray.put([miniray.put([miniray.put(9)])])
    assert miniray.get(miniray.get(miniray.get(outer)[0])[0]) == 9


def test_a_ref_that_passes_through_several_hands():
    @miniray.remote
    def pass_on(box, hops):
        return box if hops == 0 else miniray.get(pass_on.remote(box, hops - 1))

    inner = miniray.get(pass_on.remote([miniray.put("kept")], 4))[0]
    assert miniray.get(inner) == "kept"


def test_num_returns():
    @miniray.remote(num_returns=3)
    def three():
        return 1, 2, 3

    refs = three.remote()
    assert len(refs) == 3 and miniray.get(refs) == [1, 2, 3]
    one, *_ = three.remote()
    assert miniray.get(one) == 1
    assert miniray.get(add.options(num_returns=1).remote(1)) == 1

    @miniray.remote(num_returns=0)
    def nothing():
        return "ignored"

    assert nothing.remote() is None


def test_another_number_of_values_than_promised_is_an_error_of_the_task():
    @miniray.remote(num_returns=2)
    def wrong(value):
        return value

    with pytest.raises(TaskError, match="num_returns=2, but it returned 3 values"):
        miniray.get(wrong.remote([1, 2, 3]))
    with pytest.raises(TaskError, match="num_returns=2, but it returned a int"):
        miniray.get(wrong.remote(7)[1])


def test_nested_to_any_depth_without_deadlock():
    assert miniray.get(fibonacci.remote(8)) == 21
    assert miniray.get(deep.remote(8)) == 8


def test_children_that_wait_for_their_siblings():
    @miniray.remote
    def parent(n):
        refs = [add.remote(i) for i in range(n)]
        done, rest = miniray.wait(refs, num_returns=n)
        assert not rest
        return sum(miniray.get(done))

    assert miniray.get([parent.remote(20) for _ in range(8)]) == [190] * 8


def test_options_are_checked_and_names_are_shown():
    slow = add.options(num_cpus=2, name="the sum")
    assert miniray.get(slow.remote(1, 1)) == 2
    with pytest.raises(TypeError, match="the sum"):
        miniray.get(slow.remote(1, "x"))


def test_fractional_and_zero_cpus():
    @miniray.remote(num_cpus=0.5)
    def half():
        return pid.__wrapped__()

    assert miniray.get([half.remote() for _ in range(8)])
    assert miniray.get(add.options(num_cpus=0).remote(2)) == 2


def test_what_can_never_run_says_so_at_once():
    with pytest.raises(InfeasibleError, match=r"add can never run: it asks for \{'CPU': 100.0\}"):
        miniray.get(add.options(num_cpus=100).remote(1))
    with pytest.raises(InfeasibleError, match=r"whole session has .* see miniray.init\(.*resources="):
        miniray.get(add.options(resources={"unicorn": 1}).remote(1))


def test_lambdas_closures_partials_and_methods():
    base = 100
    assert miniray.get(miniray.remote(lambda x: x + base).remote(1)) == 101
    assert miniray.get(miniray.remote(functools.partial(max, 3)).remote(2)) == 3
    assert miniray.get(miniray.remote("a-b".split).remote("-")) == ["a", "b"]


def test_a_remote_function_can_be_passed_and_used_elsewhere():
    @miniray.remote
    def use(function):
        return miniray.get(function.remote(40, 2))

    assert miniray.get(use.remote(add)) == 42


def test_a_function_that_captured_a_ref():
    def make():
        ref = miniray.put("captured")
        return miniray.remote(lambda: miniray.get(ref))

    captured = make()
    assert [miniray.get(captured.remote()) for _ in range(3)] == ["captured"] * 3
    del captured
    assert_quiet()


def test_crashes_are_retried_and_max_retries_zero_means_at_most_once(tmp_path):
    @miniray.remote
    def crash_until(path, times):
        with open(path, "a") as file:
            file.write("x")
        if os.path.getsize(path) <= times:
            os._exit(3)
        return os.path.getsize(path)

    assert miniray.get(crash_until.remote(tmp_path / "twice", 2)) == 3
    once = tmp_path / "once"
    with pytest.raises(WorkerCrashedError, match=r"exited with code 3"):
        miniray.get(crash_until.options(max_retries=0).remote(once, 99))
    assert once.read_text() == "x"


def test_exceptions_are_retried_when_asked(tmp_path):
    @miniray.remote
    def fail_until(path, times, kind):
        with open(path, "a") as file:
            file.write("x")
        if os.path.getsize(path) <= times:
            raise kind("not yet")
        return "done"

    assert miniray.get(fail_until.options(retry_exceptions=True).remote(tmp_path / "a", 2, KeyError)) == "done"
    listed = fail_until.options(retry_exceptions=[OSError])
    assert miniray.get(listed.remote(tmp_path / "b", 1, FileNotFoundError)) == "done"
    with pytest.raises(KeyError):
        miniray.get(listed.remote(tmp_path / "c", 1, KeyError))
    with pytest.raises(OSError):
        miniray.get(fail_until.remote(tmp_path / "d", 1, OSError))
    limited = fail_until.options(retry_exceptions=True, max_retries=1)
    with pytest.raises(ValueError):
        miniray.get(limited.remote(tmp_path / "e", 5, ValueError))
    assert (tmp_path / "e").read_text() == "xx"


def test_a_long_task_hides_nothing_behind_it(tmp_path):
    @miniray.remote
    def wait_for(path):
        while path is not None and not path.exists():
            time.sleep(0.005)

    for number in range(3):
        miniray.get([wait_for.remote(None) for _ in range(50)])  # short ones, so the pipeline is deep
        long = wait_for.remote(tmp_path / str(number))
        miniray.get([wait_for.remote(None) for _ in range(100)], timeout=60)
        assert miniray.wait([long], timeout=0) == ([], [long])
        (tmp_path / str(number)).touch()
        miniray.get(long, timeout=60)


def test_what_is_submitted_runs_though_nobody_waits(tmp_path):
    @miniray.remote
    def touch(path):
        path.touch()

    refs = [touch.remote(tmp_path / str(i)) for i in range(5)]
    eventually(lambda: len(os.listdir(tmp_path)) == 5, "five files")
    del refs
    touch.remote(tmp_path / "unreferenced")
    eventually((tmp_path / "unreferenced").exists, "a task whose ref was dropped at once")
