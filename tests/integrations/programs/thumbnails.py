"""Small copies of a folder of pictures, whichever is done first; one file is broken."""

import multiprocessing
import os
import sys
import tempfile
import zlib

import numpy as np

SIDE = 32


def paint(folder, number):
    x, y = np.meshgrid(np.arange(256 + 64 * number), np.arange(256))
    colours = [(x * (number + 1)) % 256, (y * 3 + number) % 256, (x ^ y) % 256]
    np.save(os.path.join(folder, f"picture-{number}.npy"), np.stack(colours, axis=2).astype(np.uint8))


def shrink(path):
    try:
        picture = np.load(path)
    except ValueError as error:
        return path, None, type(error).__name__
    high, wide = (length // SIDE for length in picture.shape[:2])
    picture = picture[: high * SIDE, : wide * SIDE]
    small = picture.reshape(SIDE, high, SIDE, wide, 3).mean(axis=(1, 3)).astype(np.uint8)
    np.save(path.replace("picture", "thumbnail"), small)
    return path, small, ""


def main():
    with tempfile.TemporaryDirectory() as folder, multiprocessing.Pool() as pool:
        pool.starmap(paint, [(folder, number) for number in range(8)])
        broken = os.path.join(folder, "picture-8.npy")
        with open(broken, "w") as file:
            file.write("no picture")
        paths = sorted(os.path.join(folder, name) for name in os.listdir(folder))
        done = {}
        for path, small, problem in pool.imap_unordered(shrink, paths):
            done[os.path.basename(path)] = problem or f"{small.shape} {zlib.crc32(small.tobytes()):08x}"
            if small is not None:
                small[:] = 0  # it is ours
        for name in sorted(done):
            print(name, done[name])
        print(sum(name.startswith("thumbnail") for name in os.listdir(folder)), "thumbnails", file=sys.stdout)


if __name__ == "__main__":
    main()
