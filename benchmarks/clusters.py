"""Real clusters and an S3 API on loopback, as processes of their own, for proofs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pyspark

BUCKET = "corpora"
_WAIT_SECONDS = 60.0


@contextmanager
def s3_server(log: Path) -> Iterator[dict[str, str]]:
    """moto's server with an empty bucket `corpora`; the variables that lead to it."""
    port = free_port()
    variables = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    with process([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], log, variables):
        wait_for_port(port)
        make = f"import fsspec; fsspec.filesystem('s3').mkdir({BUCKET!r})"
        subprocess.run([sys.executable, "-c", make], check=True, env={**os.environ, **variables})
        yield variables


@contextmanager
def dask_cluster(workers: int, folder: Path, variables: Mapping[str, str]) -> Iterator[tuple[str, list[int]]]:
    """A Dask scheduler and workers of one thread each; the address, and the workers' process ids."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "dask"]
    scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--dashboard-address", "127.0.0.1:0"]
    worker = [*dask, "worker", address, "--host", "127.0.0.1", "--nthreads", "1", "--nworkers", str(workers)]
    worker += ["--memory-limit", "2GB", "--local-directory", str(folder), "--dashboard-address", "127.0.0.1:0"]
    with process(scheduler, folder / "scheduler.log", variables):
        wait_for_port(port)
        with process(worker, folder / "worker.log", variables) as nannies:
            yield address, [nannies]


@contextmanager
def spark_cluster(workers: int, folder: Path, variables: Mapping[str, str]) -> Iterator[tuple[str, list[int]]]:
    """A Spark standalone master and one worker with so many cores; the address, and the worker's process id."""
    port = free_port()
    address = f"spark://127.0.0.1:{port}"
    run = [str(Path(pyspark.__file__).parent / "bin" / "spark-class")]
    deploy = "org.apache.spark.deploy"
    ui = ["--webui-port", "0"]
    master = [*run, f"{deploy}.master.Master", "--host", "127.0.0.1", "--port", str(port), *ui]
    worker = [*run, f"{deploy}.worker.Worker", address, "--host", "127.0.0.1", "--cores", str(workers)]
    worker += ["--memory", f"{2 * workers}g", "--work-dir", str(folder / "work"), *ui]
    variables = {**variables, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_DIRS": str(folder / "local")}
    variables |= {"SPARK_DAEMON_MEMORY": "256m", "PYSPARK_PYTHON": sys.executable}
    with process(master, folder / "master.log", variables):
        wait_for_port(port)
        with process(worker, folder / "worker.log", variables) as daemon:
            yield address, [daemon]


def kill_workers(parent: int, named: str) -> int:
    """SIGKILL one process below `parent` whose command line has `named`; the id of the killed one."""
    for child in psutil.Process(parent).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any(named in part for part in child.cmdline()):
                child.kill()
                return child.pid
    raise AssertionError(f"no process below {parent} is called {named}")


@contextmanager
def process(command: list[str], log: Path, variables: Mapping[str, str]) -> Iterator[int]:
    """A process and what it starts, stopped at the end; its id."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        child = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, **variables}, start_new_session=True
        )
    try:
        yield child.pid
    finally:
        stop(child)


def stop(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM to a session of processes, SIGKILL to what is left of it."""
    below = [psutil.Process(child.pid)] if psutil.pid_exists(child.pid) else []
    below += below[0].children(recursive=True) if below else []
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(timeout=10)
    for one in below:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    child.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for_port(port: int) -> None:
    end = time.monotonic() + _WAIT_SECONDS
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert time.monotonic() < end, f"nothing listens on port {port}"
        time.sleep(0.1)


def wheel(root: Path, folder: Path) -> Path:
    """Our wheel as `pip wheel . --no-deps` makes it, called imglish.zip for Spark; `folder` is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    copy = folder / "source"
    copy.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, copy)
    shutil.copytree(root / "imglish", copy / "imglish", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(command, cwd=copy, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.whl")).rename(folder / "imglish.zip")
