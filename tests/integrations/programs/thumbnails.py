"""Small copies of a folder of pictures, whichever is done first; one file is broken."""

import os
import sys
import tempfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import FIRST_COMPLETED, wait
from itertools import repeat

import numpy as np

SIDE = 32


def paint(folder, number):
    x, y = np.meshgrid(np.arange(256 + 64 * number), np.arange(256))
    colours = [(x * (number + 1)) % 256, (y * 3 + number) % 256, (x ^ y) % 256]
    np.save(os.path.join(folder, f"picture-{number}.npy"), np.stack(colours, axis=2).astype(np.uint8))


def shrink(path):
    picture = np.load(path)
    high, wide = (length // SIDE for length in picture.shape[:2])
    picture = picture[: high * SIDE, : wide * SIDE]
    small = picture.reshape(SIDE, high, SIDE, wide, 3).mean(axis=(1, 3)).astype(np.uint8)
    np.save(path.replace("picture", "thumbnail"), small)
    return small


def main():
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor() as executor:
        list(executor.map(paint, repeat(folder), range(8), chunksize=4))
        broken = os.path.join(folder, "picture-8.npy")
        with open(broken, "w") as file:
            file.write("no picture")
        paths = sorted(os.path.join(folder, name) for name in os.listdir(folder))
        waiting = {executor.submit(shrink, path): os.path.basename(path) for path in paths}
        done = {}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                name = waiting.pop(future)
                try:
                    small = future.result()
                except ValueError as error:
                    done[name] = f"{type(error).__name__} {future.exception() is error}"
                else:
                    done[name] = f"{small.shape} {zlib.crc32(small.tobytes()):08x}"
                    small[:] = 0  # it is ours
        for name in sorted(done):
            print(name, done[name])
        print(sum(name.startswith("thumbnail") for name in os.listdir(folder)), "thumbnails", file=sys.stdout)


if __name__ == "__main__":
    main()
