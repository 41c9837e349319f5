"""Starting Spark: settings, Java, and clear errors when something is missing.

    session = start_session(workers=2, memory="4GB", address=None, scratch="corpus/scratch")

Java's output goes to a file, so that the terminal stays ours; its last lines are quoted when it does not start.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import IO

from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from imglish.errors import EngineError
from imglish.recipe import parse_size

CONNECT_SECONDS = 20.0
"""How long a master may take to accept a connection."""
ATTEMPTS = 4
"""Of a task whose worker died (Spark's own default on clusters)."""
_HEAP_SHARE, _HEAP_LEAST = 0.25, 1 << 30
_LOOPBACK = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""One thread a worker, as under Dask; an encoder that uses more sets them itself."""
_STORAGE = ("AWS_", "FSSPEC_")
"""Beginnings of variables that say where stores are; a worker on this machine gets them as they are now."""


def start_session(workers: int | None, memory: str, address: str | None, scratch: str | None) -> SparkSession:
    """A session of our own; EngineError when Java is missing, the master does not answer or Spark does not start."""
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # by spark-submit, which started Java and this process
    conf = SparkConf()
    for name, value in settings(workers, memory, address, scratch, submitted).items():
        conf.set(name, value)
    if not submitted:
        _find_java()
        if address is not None:
            _find_master(address)
    with tempfile.TemporaryFile() as log:
        try:
            if not submitted and SparkContext._gateway is None:
                gateway = launch_gateway(conf, popen_kwargs={"stdout": log, "stderr": log})
                SparkContext._ensure_initialized(gateway=gateway, conf=conf)
            context = SparkContext(conf=conf, environment=environment(address if not submitted else "submitted"))
        except (PySparkException, Py4JError, OSError) as error:
            raise EngineError(f"Spark does not start: {short(error)}{_last_words(log)}") from error
    if "PYSPARK_PYTHON" not in os.environ:
        context.pythonExec = sys.executable
    return SparkSession(context)


def settings(
    workers: int | None, memory: str, address: str | None, scratch: str | None, submitted: bool = False
) -> dict[str, str]:
    """Spark's settings by name.

    Started by spark-submit, its flags decide. Otherwise a worker is one core with `memory`, a quarter of it (1 GiB at
    least) as the heap of Java, which only moves cells. On this machine one Java serves all workers; what their Python
    processes take is not limited. On a cluster an executor has one core, and the rest of `memory` as overhead, which
    YARN and Kubernetes enforce.
    """
    common = {"spark.app.name": "imglish", "spark.ui.showConsoleProgress": "false", "spark.driver.maxResultSize": "0"}
    if submitted:
        return common
    room = parse_size(memory)
    heap = max(_HEAP_LEAST, int(room * _HEAP_SHARE))
    if address is None:
        count = workers or len(os.sched_getaffinity(0))
        common |= {
            "spark.master": f"local[{count},{ATTEMPTS}]",
            "spark.driver.memory": f"{heap * max(1, count // 2) >> 20}m",
            "spark.ui.enabled": "false",
        }
        return common | _LOOPBACK | ({"spark.local.dir": scratch} if scratch else {})
    common |= {
        "spark.master": address,
        "spark.executor.cores": "1",
        "spark.executor.memory": f"{heap >> 20}m",
        "spark.executor.memoryOverhead": f"{max(384 << 20, room - heap) >> 20}m",
    }
    if workers is not None:
        common |= {"spark.cores.max": str(workers), "spark.executor.instances": str(workers)}
    return common | (_LOOPBACK if _on_loopback(address) else {})


def environment(address: str | None) -> dict[str, str]:
    """Variables of the worker processes."""
    storage = {name: value for name, value in os.environ.items() if name.startswith(_STORAGE)}
    return _ONE_THREAD | (storage if address is None else {})


def short(error: BaseException) -> str:
    """The telling line of an error of Spark, whose text is mostly stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    marks = ("Error: ", "Exception: ", "Error\n", "crashed", "failed", "lost")
    telling = [line for line in lines if any(mark in line for mark in marks) and not line.startswith(("at ", "File "))]
    found = next((line for line in reversed(telling) if "Error: " in line and "java" not in line), None)
    return (found or (telling or lines or [type(error).__name__])[0])[:400]


def _find_java() -> None:
    home = os.environ.get("JAVA_HOME")
    found = Path(home, "bin", "java").exists() if home else shutil.which("java") is not None
    if not found:
        where = f"JAVA_HOME is {home}, which has no bin/java" if home else "no java in PATH and no JAVA_HOME"
        raise EngineError(f"Spark needs Java 17 or newer: {where}; install one, or use --engine dask")


def _find_master(address: str) -> None:
    """EngineError when none of the hosts of spark://a:1,b:2 accepts a connection; other masters are left to Spark."""
    if not address.startswith("spark://"):
        return
    problems = []
    for place in address.removeprefix("spark://").split(","):
        host, _, port = place.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
            return
        except (OSError, ValueError) as error:
            problems.append(f"{place}: {error}")
    raise EngineError(
        f"no Spark master answers at {address} ({'; '.join(problems)}); start one (docs/clusters.md), or leave out the "
        "address to run on this machine"
    )


def _on_loopback(address: str) -> bool:
    host = address.partition("://")[2].partition(",")[0].rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _last_words(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()
    return "; Java said: " + " / ".join(line.strip() for line in lines[-5:]) if lines else ""
