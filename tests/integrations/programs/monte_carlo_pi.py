"""Pi by throwing darts: as many seeds as there are parts, so that every run gives the same."""

import multiprocessing
import random


def inside(part):
    seed, darts = part
    throw = random.Random(seed).random
    return sum(throw() ** 2 + throw() ** 2 <= 1.0 for _ in range(darts))


def main():
    parts = [(seed, 20_000) for seed in range(16)]
    with multiprocessing.Pool(processes=2) as pool:
        hits = pool.map(inside, parts)
        progress = pool.map_async(inside, parts[:4], chunksize=1)
        progress.wait(timeout=60)
        assert progress.ready() and progress.successful() and progress.get() == hits[:4]
    darts = sum(count for _, count in parts)
    print(f"{sum(hits)} of {darts} darts: pi is about {4 * sum(hits) / darts:.5f}")


if __name__ == "__main__":
    main()
