"""What driver scripts import: workers in other processes, spawned or forked."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

from miniray._runtime.functions import FunctionExporter, FunctionImporter
from miniray._serialization.forked import inherit_main, prepare_fork
from miniray._serialization.namespaces import pickling_for
from miniray._serialization.values import serialize_call

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

import worker_program  # noqa: E402


class Worker:
    """A process that has nothing of the driver's `__main__`."""

    def __init__(self, exporter: FunctionExporter) -> None:
        self.exporter = exporter
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "worker_program.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.requests, self.answers = self.process.stdin, self.process.stdout

    def __call__(self, function, *args, **kwargs):
        _, definition = self.exporter.export(function)
        with pickling_for(self.exporter._inherited):
            call = serialize_call(args, kwargs)
        worker_program.write_frame(self.requests, definition.to_bytes())
        worker_program.write_frame(self.requests, call if isinstance(call, bytes) else call.to_bytes())
        return worker_program.read_answer(worker_program.read_frame(self.answers))

    def close(self):
        self.requests.close()
        self.answers.close()
        self.process.wait()


class ForkedWorker(Worker):
    """A fork of the driver, which has inherited its `__main__`; told so by the exporter."""

    def __init__(self, exporter: FunctionExporter, namespace: str) -> None:
        inherited = prepare_fork(exporter._inherited)
        self.exporter = FunctionExporter(namespace, inherited)
        to_child, from_parent = os.pipe()[::-1], os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(to_child[0])
                os.close(from_parent[0])
                inherit_main(namespace)
                importer = FunctionImporter()
                with os.fdopen(to_child[1], "rb") as requests, os.fdopen(from_parent[1], "wb") as answers:
                    worker_program.work(requests, answers, importer)
            finally:
                os._exit(0)
        os.close(to_child[1])
        os.close(from_parent[1])
        self.requests, self.answers = os.fdopen(to_child[0], "wb"), os.fdopen(from_parent[0], "rb")

    def close(self):
        self.requests.close()
        self.answers.close()
        os.waitpid(self.pid, 0)
