"""Sessions begin anywhere: in threads, in several at once, in one that ends, under asyncio; and begin again."""

from __future__ import annotations

import pytest

PRELUDE = """
    import asyncio, signal, sys, threading, time
    import psutil
    import miniray

    @miniray.remote
    def double(x):
        return 2 * x

    @miniray.remote
    class Actor:
        def double(self, x):
            return 2 * x

    def use(x=1):
        actor = Actor.remote()
        assert miniray.get([double.remote(x), actor.double.remote(x)]) == [2 * x, 2 * x]

    def in_thread(body, *arguments):
        errors = []

        def run():
            try:
                body(*arguments)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(30)
        assert not thread.is_alive() and not errors, errors

    def sessions():
        return len(psutil.Process().children())  # each has one zygote
"""

BEGINNINGS = {
    "again and again": """
        for i in range(3):
            miniray.init(num_cpus=1)
            use(i)
            miniray.shutdown()
            assert sessions() == 0
        miniray.init()
        use()
    """,
    "in a thread that ends": """
        in_thread(miniray.init)
        use()
        in_thread(use)
        in_thread(miniray.shutdown)
        assert not miniray.is_initialized() and sessions() == 0
        in_thread(miniray.init)
        use()
    """,
    "by itself in a thread": """
        in_thread(use)
        use()
        assert sessions() == 1
    """,
    "by itself in several threads at once": """
        barrier, done = threading.Barrier(8), []

        def together(i):
            barrier.wait()
            use(i)
            done.append(i)

        threads = [threading.Thread(target=together, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(done) == list(range(8)) and sessions() == 1
    """,
    "under asyncio": """
        async def ask(x):
            return await double.remote(x)

        async def main():
            loop = asyncio.get_running_loop()
            found = await asyncio.gather(*[ask(i) for i in range(20)])
            assert found == [2 * i for i in range(20)]
            assert await loop.run_in_executor(None, lambda: miniray.get(double.remote(5))) == 10
            assert await asyncio.wait_for(Actor.remote().double.remote(4), 30) == 8

        asyncio.run(main())
        asyncio.run(main())
        in_thread(lambda: asyncio.run(main()))
        assert sessions() == 1
    """,
    "in a thread, and Ctrl-C strikes the main one": """
        in_thread(miniray.init)
        use()
        main = threading.main_thread().ident
        wanted = threading.Semaphore(0)

        def interrupt():
            for i in range(50):
                wanted.acquire()
                time.sleep(0.0001 * i)
                signal.pthread_kill(main, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        landed = 0
        while landed < 50:
            try:
                wanted.release()
                while True:
                    assert miniray.get(double.remote(3)) == 6
            except KeyboardInterrupt:
                landed += 1
        thread.join()
        use()
        from quiescence import assert_quiet
        assert_quiet(10)
    """,
}


@pytest.mark.parametrize("how", BEGINNINGS)
def test_sessions_begin_anywhere(script, how):
    lines = BEGINNINGS[how].rstrip().replace("\n    ", "\n")
    assert script(PRELUDE + lines + "\n    print('used')\n").end() == "used\n"
