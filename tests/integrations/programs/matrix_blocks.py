"""A product of matrices by blocks; the matrices are the workers' from the start, as globals of an initializer."""

import multiprocessing
import zlib
from functools import partial

import numpy as np

SIZE, BLOCK = 400, 100
matrices = {}


def take(a, b):
    matrices.update(a=a, b=b)


def block(row, column):
    a = matrices["a"][row : row + BLOCK]
    b = matrices["b"][:, column : column + BLOCK]
    return row, column, a @ b


def scale(factor, rows):
    rows *= factor  # its own copy
    return rows


def main():
    a = np.arange(SIZE * SIZE, dtype=np.int64).reshape(SIZE, SIZE) % 97
    b = a.T.copy() % 89
    product = np.zeros((SIZE, SIZE), np.int64)
    starts = range(0, SIZE, BLOCK)
    context = multiprocessing.get_context("fork")
    with context.Pool(2, take, (a, b)) as pool:
        jobs = pool.starmap_async(block, [(row, column) for row in starts for column in starts], chunksize=2)
        for row, column, part in jobs.get(timeout=60):
            product[row : row + BLOCK, column : column + BLOCK] = part
        doubled = np.concatenate(pool.map(partial(scale, 2), [product[start : start + BLOCK] for start in starts]))
    assert (product == a @ b).all() and (doubled == 2 * product).all()
    print(product.trace(), f"{zlib.crc32(product.tobytes()):08x}", doubled.sum())


if __name__ == "__main__":
    main()
