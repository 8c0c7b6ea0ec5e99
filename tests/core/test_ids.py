"""Ids say where they belong, without any table."""

from __future__ import annotations

import pytest

from miniray.core.ids import (
    CONTROL_NUMBER,
    DRIVER_NUMBER,
    NODE_NUMBER,
    local_number,
    node_index,
    node_of,
    owner_of,
    process_id,
    process_number,
    process_on,
    return_id,
    show,
    task_id,
)

SESSION = b"sess"
HEAD = process_id(SESSION, NODE_NUMBER)
SECOND = process_id(SESSION, 2 << 20)


def test_the_head_nodes_processes_have_small_numbers() -> None:
    assert process_on(HEAD, DRIVER_NUMBER) == process_id(SESSION, DRIVER_NUMBER)
    assert node_of(process_id(SESSION, 7)) == HEAD
    assert node_index(process_id(SESSION, 7)) == 0


@pytest.mark.parametrize("local", [0, 1, 2, (1 << 20) - 1])
def test_each_process_names_its_node(local: int) -> None:
    process = process_on(SECOND, local)
    assert node_of(process) == SECOND
    assert node_index(process) == 2
    assert local_number(process) == local
    assert process_number(process) == (2 << 20) + local
    assert process_on(process, 5) == process_on(SECOND, 5)


def test_an_object_names_its_owners_node() -> None:
    object_id = return_id(task_id(process_on(SECOND, 3), 9), 1)
    assert owner_of(object_id) == process_on(SECOND, 3)
    assert node_of(object_id) == SECOND


def test_a_local_number_never_runs_into_the_next_node() -> None:
    with pytest.raises(AssertionError, match="no more process numbers"):
        process_on(SECOND, 1 << 20)


def test_names_for_people() -> None:
    assert show(process_id(SESSION, 3)) == "p3"
    assert show(process_on(SECOND, 3)) == "n2.p3"
    assert show(SECOND) == "n2.p0"
    assert show(process_id(SESSION, CONTROL_NUMBER)) == "control.p0"
    assert show(task_id(process_id(SESSION, 1), 7)) == "p1.t7"
    assert show(return_id(task_id(process_on(SECOND, 1), 7), 2)) == "n2.p1.t7.2"
