"""A celery application whose tasks emit. Usage, to send tasks: tasks.py COUNT."""

import os
import sys

from celery import Celery
from reporting import configured, note, tick

queue = os.environ["CHAOS_QUEUE"]
app = Celery("tasks", broker="filesystem://")
app.conf.update(
    broker_transport_options={
        "data_folder_in": queue,
        "data_folder_out": queue,
        "control_folder": f"{queue}-control",
    },
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    worker_max_tasks_per_child=5,
)


@app.task(name="emit")
def emit(number: int) -> None:
    tick(number=number)
    note(f"task {os.getpid()}")


if __name__ == "__main__":
    for each in range(int(sys.argv[1])):
        emit.delay(each)
else:
    configured()  # in the parent, before it forks
