"""Durable steps of DBOS on a Postgres: so many workflows at a time, each a chain of steps that do nothing.

Usage: durable.py URL WORKFLOWS STEPS ROUNDS. Prints steps and seconds.
"""

import asyncio
import sys
import time

from dbos import DBOS, DBOSConfig

RESULT = "a result of middling length, as tools give them"


@DBOS.step()
async def step(number: int) -> str:
    return f"{number}: {RESULT}"


@DBOS.workflow()
async def chain(steps: int) -> int:
    for number in range(steps):
        await step(number)
    return steps


async def wave(workflows: int, steps: int) -> None:
    handles = [await DBOS.start_workflow_async(chain, steps) for _ in range(workflows)]
    for handle in handles:
        assert await handle.get_result() == steps


async def main(workflows: int, steps: int, rounds: int) -> None:
    await wave(2, 8)
    begun = time.monotonic()
    for _ in range(rounds):
        await wave(workflows, steps)
    print(workflows * steps * rounds, time.monotonic() - begun)


if __name__ == "__main__":
    url, workflows, steps, rounds = sys.argv[1], *map(int, sys.argv[2:])
    config: DBOSConfig = {
        "name": "steps",
        "system_database_url": url,
        "run_admin_server": False,
        "log_level": "ERROR",
    }
    DBOS(config=config)
    DBOS.launch()
    try:
        asyncio.run(main(workflows, steps, rounds))
    finally:
        DBOS.destroy()
