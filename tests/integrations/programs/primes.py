"""Which of these numbers are primes: the example of the documentation of `concurrent.futures`."""

import math
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import as_completed

NUMBERS = [1_000_000_007, 1_000_000_011, 1_000_000_009, 999_999_937, 999_999_938, 1_000_003 * 999_983]


def is_prime(n):
    if n < 2:
        return False
    if n == 2:
        return True
    if n % 2 == 0:
        return False
    return all(n % divisor for divisor in range(3, math.isqrt(n) + 1, 2))


def primes_below(limit):
    return [n for n in range(limit - 1000, limit) if is_prime(n)]


def main():
    with ProcessPoolExecutor(max_workers=2) as executor:
        for number, prime in zip(NUMBERS, executor.map(is_prime, NUMBERS), strict=True):
            print(f"{number} is prime: {prime}")
        futures = {executor.submit(primes_below, limit): limit for limit in range(1000, 20_000, 1000)}
        counts = {futures[done]: len(done.result()) for done in as_completed(futures)}
        wrong = executor.submit(is_prime, "seven")
        print(type(wrong.exception()).__name__)
    print(sorted(counts.items()), sum(counts.values()))


if __name__ == "__main__":
    main()
