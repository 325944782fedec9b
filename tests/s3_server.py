"""A server that speaks S3 and fails as it is told to."""
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import fsspec
from moto.moto_server import werkzeug_app
from moto.server import ThreadedMotoServer

from cyborgs_plugin.datasets import far_ranges

FAILS = 'masks'
"""Part of the URLs that have faults."""


def serve(monkeypatch: Any) -> Iterator[list[Any]]:
    """Serve a bucket to this process and those that it starts.

    Yields:
        list: Faults that come before the answers: a status, or 'cut' for an
        answer that breaks off.
    """
    faults: list[Any] = []
    application = werkzeug_app.DomainDispatcherApplication
    answered = application.__call__

    def answer(self: Any, environ: dict, start: Any) -> Any:
        asked = environ['PATH_INFO'] + environ['QUERY_STRING']
        fault = faults.pop(0) if faults and FAILS in asked else None
        if isinstance(fault, int):
            start(f'{fault} Slow Down', [('Content-Length', '0')])
            return [b'']
        body = b''.join(answered(self, environ, start))
        return cut(body) if fault == 'cut' else [body]

    monkeypatch.setattr(application, '__call__', answer)
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in dict(
            AWS_ACCESS_KEY_ID='AKIATESTTEST',
            AWS_SECRET_ACCESS_KEY='geheim123456',
            AWS_ENDPOINT_URL=f'http://{host}:{port}').items():
        monkeypatch.setenv(name, value)

    def forget() -> None:
        """Servers of a process share their buckets; clients are kept."""
        urlopen(f'http://{host}:{port}/moto-api/reset', data=b'').close()
        fsspec.get_filesystem_class('s3').clear_instance_cache()
        far_ranges._signed.cache_clear()
        far_ranges._PASSED_ON.clear()

    forget()
    fsspec.filesystem('s3').mkdir('bucket')
    yield faults
    forget()
    server.stop()


def cut(body: bytes) -> Iterator[bytes]:
    """Half an answer."""
    yield body[:len(body) // 2]
    raise ConnectionError('cut')
