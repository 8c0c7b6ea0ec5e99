"""grep over the standard library's own sources: an initializer compiles the pattern once a process."""

import multiprocessing
import os
import re

pattern = None


def begin(expression):
    global pattern
    pattern = re.compile(expression)


def search(path):
    with open(path, encoding="utf-8") as file:
        lines = enumerate(file, 1)
        return [(os.path.basename(path), number, line.strip()) for number, line in lines if pattern.search(line)]


def main():
    folder = os.path.dirname(multiprocessing.process.__file__)
    paths = sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".py"))
    total, failed = [], []
    pool = multiprocessing.Pool(2, initializer=begin, initargs=(r"^class \w+Error|class Pool",), maxtasksperchild=20)
    try:
        for found in pool.imap(search, paths, chunksize=3):
            for name, number, line in found:
                print(f"{name}:{number}:{line}")
        missing = os.path.join(folder, "no such file.py")
        results = [
            pool.apply_async(search, (path,), callback=total.extend, error_callback=failed.append)
            for path in [missing, *paths]
        ]
        pool.close()
        pool.join()
        assert all(result.ready() for result in results)
    finally:
        pool.terminate()
    print(len(total), "lines in all;", [type(error).__name__ for error in failed], results[0].successful())


if __name__ == "__main__":
    main()
