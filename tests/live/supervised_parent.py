"""A supervisor in a process of its own, for tests that kill it: `python supervised_parent.py DIR`."""

import asyncio
import sys
from pathlib import Path

from hanse.live.supervise import ChildSpec, Supervisor, end_on_signals

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"


async def main(directory: Path) -> None:
    ended = end_on_signals(asyncio.get_running_loop())
    supervisor = Supervisor()
    for name in ("one", "two"):
        supervisor.add(
            ChildSpec(
                name=name,
                command=(sys.executable, "-c", SLEEPER),
                log_path=str(directory / f"{name}.log"),
                pid_path=str(directory / f"{name}.pid"),
            )
        )
    await ended.wait()
    await supervisor.stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
