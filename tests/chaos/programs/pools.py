"""Emits in child processes that end as such children do. Usage: pools.py KIND METHOD WORKERS.

The children of fork inherit a configured pipeline in use; the others configure at import.
"""

import multiprocessing
import os
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

from reporting import configured, note, tick

TEN = 10

if __name__ == "__mp_main__":
    configured()


def emit_ten(number: int) -> None:
    for _ in range(TEN):
        assert tick(number=number) is not None
    note(f"worker {os.getpid()}")


def main() -> None:
    kind, method, workers = sys.argv[1:]
    configured()
    context = multiprocessing.get_context(method)
    stop = threading.Event()

    def emit() -> None:
        while not stop.wait(0.001):
            tick(parent=True)

    thread = threading.Thread(target=emit, daemon=True)
    thread.start()
    if kind == "pool":
        with ProcessPoolExecutor(4, mp_context=context) as pool:
            list(pool.map(emit_ten, range(int(workers))))
    else:
        for begin in range(0, int(workers), 5):
            some = range(begin, min(begin + 5, int(workers)))
            processes = [context.Process(target=emit_ten, args=(number,)) for number in some]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
                assert process.exitcode == 0
    stop.set()
    thread.join()


if __name__ == "__main__":
    main()
