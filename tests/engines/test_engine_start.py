"""Engines that cannot start say why and what to do, in bounded time; sessions and clusters of others are left alone."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from imglish.engines import on_engine, open_engine
from imglish.engines.dask import DaskEngine
from imglish.engines.seam import check_code
from imglish.engines.spark import SparkEngine
from imglish.engines.spark_session import environment, settings
from imglish.errors import EngineError, RecipeError, StageError
from imglish.stages import counts_of
from imglish.storage import Store
from imglish.versions import code_facts, source_digest
from tests.engines.test_engine_contract import Square, units
from tests.pipeline.corpora import small_recipe


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine that nobody listens on, and nobody else can get."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_a_scheduler_that_does_not_answer_is_named(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imglish.engines.dask.CONNECT_SECONDS", 1.0)
    with pytest.raises(EngineError, match=f"no Dask scheduler answers at tcp://127.0.0.1:{closed_port} within 1 s"):
        list(DaskEngine(address=f"tcp://127.0.0.1:{closed_port}").map(Square(Store(".")), units(1)))


def test_a_master_that_does_not_answer_is_named(closed_port: int) -> None:
    with pytest.raises(EngineError, match=rf"no Spark master answers at spark://127.0.0.1:{closed_port} .*refused"):
        list(SparkEngine(address=f"spark://127.0.0.1:{closed_port}").map(Square(Store(".")), units(1)))


def test_an_address_that_is_none_is_named() -> None:
    with pytest.raises(EngineError, match="no Dask scheduler answers at nowhere://here"):
        list(DaskEngine(address="nowhere://here").map(Square(Store(".")), units(1)))
    with pytest.raises(EngineError, match="no Spark master answers at spark://here"):
        list(SparkEngine(address="spark://here").map(Square(Store(".")), units(1)))


@pytest.mark.parametrize("home", ["nowhere", None])
def test_a_missing_java_is_named(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    if home is None:
        monkeypatch.setenv("PATH", "")
    else:
        monkeypatch.setenv("JAVA_HOME", home)
    with pytest.raises(EngineError, match=r"Spark needs Java 17 or newer: .*--engine dask"):
        list(SparkEngine().map(Square(Store(".")), units(1)))


def test_a_missing_pyspark_is_named(tmp_path: Path) -> None:
    """In a process that cannot import it, through the command line."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "x"\n[[source]]\nname = "s"\nformat = "text"\nkind = "text"\npath = "t"\n')
    script = "import sys; sys.modules['pyspark'] = None; from imglish.cli import main; main()"
    command = [sys.executable, "-c", script, "build", str(recipe), "--engine", "spark"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 1 and ran.stderr.startswith("EngineError: --engine spark needs pyspark"), ran.stderr
    assert "pip install 'imglish[spark]'" in ran.stderr


def test_a_session_that_is_there_is_used_and_left_as_it_was(tmp_path: Path) -> None:
    with SparkEngine(workers=1, scratch=str(tmp_path / "scratch")) as outer:
        session = outer._connect()
        before = dict(session.conf.getAll)  # type: ignore[attr-defined]
        with SparkEngine(address="spark://unused:1") as inner:
            assert counts_of(list(inner.map(Square(Store(tmp_path)), units(3)))) == {"total": 5}
        assert SparkSession.getActiveSession() is not None
        assert session.range(3).count() == 3
        assert dict(session.conf.getAll) == before  # type: ignore[attr-defined]


def test_a_worker_with_other_code_is_refused() -> None:
    with pytest.raises(StageError, match=r"other code than the driver .*: imglish \w{16} \(driver: 0000\); give both"):
        check_code({**code_facts(), "imglish": "0000"})
    check_code(code_facts())


def test_the_source_digest_is_that_of_the_zip(tmp_path: Path) -> None:
    """As Spark ships a wheel: Python imports it from the archive."""
    import zipfile

    package = Path(__file__).resolve().parents[2] / "imglish"
    with zipfile.ZipFile(tmp_path / "imglish.zip", "w") as archive:
        for path in package.rglob("*.py"):
            archive.write(path, f"imglish/{path.relative_to(package)}")
    script = "import sys; sys.path.insert(0, sys.argv[1]); from imglish.versions import source_digest as s; print(s())"
    command = [sys.executable, "-P", "-c", script, str(tmp_path / "imglish.zip")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert ran.stdout.strip() == source_digest()


def test_the_command_line_goes_before_the_recipe(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, tmp_path, run={"engine": "dask", "address": "tcp://a:1", "workers": 3})
    same = on_engine(recipe, workers=2, memory="512MiB").run
    assert (same.engine, same.address, same.workers, same.memory) == ("dask", "tcp://a:1", 2, "512MiB")
    other = on_engine(recipe, engine="spark").run
    assert (other.engine, other.address, other.workers) == ("spark", None, 3)
    assert isinstance(open_engine(on_engine(recipe, engine="spark")), SparkEngine)
    with pytest.raises(RecipeError, match="--engine ray: use dask or spark"):
        on_engine(recipe, engine="ray")
    with pytest.raises(RecipeError, match="--memory 'lots' is not a size; write it like 4GB"):
        on_engine(recipe, memory="lots")


def test_spark_stays_on_loopback_on_this_machine() -> None:
    local = settings(2, "4GB", None, "/scratch")
    assert local["spark.master"] == "local[2,4]" and local["spark.local.dir"] == "/scratch"
    for address in (None, "spark://127.0.0.1:7077", "spark://localhost:7077"):
        found = settings(2, "4GB", address, None)
        assert found["spark.driver.host"] == found["spark.driver.bindAddress"] == "127.0.0.1"
    assert "spark.driver.host" not in settings(2, "4GB", "spark://10.0.0.1:7077", None)


def test_memory_and_workers_become_settings_of_a_cluster() -> None:
    found = settings(3, "8GB", "yarn", None)
    assert (found["spark.cores.max"], found["spark.executor.instances"], found["spark.executor.cores"]) == (
        "3",
        "3",
        "1",
    )
    heap, rest = int(found["spark.executor.memory"][:-1]), int(found["spark.executor.memoryOverhead"][:-1])
    assert heap + rest == pytest.approx(8e9 / 2**20, abs=2)
    assert "spark.executor.memory" not in settings(3, "8GB", None, None, submitted=True)


def test_credentials_are_not_sent_to_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert environment(None)["AWS_SECRET_ACCESS_KEY"] == "secret"
    assert "secret" not in environment("spark://10.0.0.1:7077").values()
