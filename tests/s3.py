"""An S3 API on loopback, which this process and those that it starts find by the usual variables."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import fsspec


@contextmanager
def serve_s3() -> Iterator[str]:
    """An empty bucket of moto's server; its URL."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        variables = {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }
        with patch.dict(os.environ, variables):
            forget_instances()
            name = uuid.uuid4().hex  # all of moto's servers in a process share their buckets
            fsspec.filesystem("s3", use_listings_cache=False).mkdir(name)
            yield f"s3://{name}"
    finally:
        forget_instances()
        server.stop()


def forget_instances() -> None:
    """File systems keep the address that they were made with."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
