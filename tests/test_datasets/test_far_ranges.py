"""Reads of S3 by signed URLs, where something is unusual."""
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import fsspec
import pytest
import urllib3

from cyborgs_plugin.datasets import far_ranges, read_image
from cyborgs_plugin.datasets.far_ranges import read_range

from .test_far_shards import packed, signed  # noqa: F401

BODY = bytes(range(256))


def put(key, body=BODY, **options):
    fsspec.filesystem('s3').call_s3('put_object', Bucket='bucket', Key=key,
                                    Body=body, **options)


@pytest.mark.parametrize('anonymous', [False, True])
def test_keys(s3, monkeypatch, anonymous):
    keys = ['a b.tar', 'a#b.tar', 'a%20b.tar', 'a+b.tar', 'ü é.tar',
            'a//b.tar', 'a&b=c.tar', "~a'(b)@1+2.tar"]
    for row, key in enumerate(keys):
        put(key, BODY[row:], ACL='public-read')
    if anonymous:
        for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'):
            monkeypatch.delenv(name)
        monkeypatch.setitem(fsspec.config.conf, 's3', dict(anon=True))
    for row, key in enumerate(keys):
        assert read_range(f's3://bucket/{key}', 3, 40) == BODY[row:][3:40]


def test_an_encoding_that_an_object_claims(s3):
    """Bytes are as they are stored, as s3fs reads them."""
    put('0.tar', ContentEncoding='gzip')
    assert read_range('s3://bucket/0.tar', 3, 40) == BODY[3:40]
    assert fsspec.filesystem('s3').cat_file(
        'bucket/0.tar', start=3, end=40) == BODY[3:40]


def test_a_proxy_of_the_environment(s3, packed, tmp_path,  # noqa: F811
                                    monkeypatch):
    """s3fs knows it."""
    path, image, _ = signed(s3, packed, tmp_path, monkeypatch)
    monkeypatch.setenv('http_proxy', os.environ['AWS_ENDPOINT_URL'])
    monkeypatch.setenv('no_proxy', '')
    monkeypatch.setenv('AWS_ENDPOINT_URL', 'http://127.0.0.1:1')
    fsspec.get_filesystem_class('s3').clear_instance_cache()
    far_ranges._signed.cache_clear()
    assert (read_image(path) == image).all()


@pytest.mark.parametrize('error', [
    lambda pool: urllib3.exceptions.SSLError('CERTIFICATE_VERIFY_FAILED'),
    lambda pool: urllib3.exceptions.NewConnectionError(pool, 'no route'),
    lambda pool: urllib3.exceptions.ConnectTimeoutError(pool, 'no route')])
def test_only_s3fs_gets_through(s3, packed, tmp_path,  # noqa: F811
                                monkeypatch, error):
    """Such as with certificates that only its settings name."""
    path, image, read = signed(s3, packed, tmp_path, monkeypatch)
    asked = []

    def request(self, *args, **kwargs):
        asked.append(args)
        raise error(self)

    monkeypatch.setattr(urllib3.PoolManager, 'request', request)
    for _ in range(3):
        assert (read_image(path) == image).all()
    assert len(asked) == 1 and len(read) == 3


def test_credentials_that_were_renewed(s3, packed, tmp_path,  # noqa: F811
                                       monkeypatch):
    """Those of an hour end with it: a refusal does not last."""
    path, image, read = signed(s3, packed, tmp_path, monkeypatch)
    s3[:] = [403]
    for _ in range(2):
        assert (read_image(path) == image).all()
    now = far_ranges.time.time() + far_ranges._VALID
    monkeypatch.setattr(far_ranges.time, 'time', lambda: now)
    # botocore renews them ten minutes before their end
    assert far_ranges._VALID < 600
    assert (read_image(path) == image).all()
    assert len(read) == 2


@pytest.fixture
def odd(monkeypatch):
    """An S3 whose answers are a header or a status of ours."""
    class Odd(BaseHTTPRequestHandler):
        lines, asked = [], []

        def log_message(self, *args):
            pass

        def do_GET(self):
            self.asked.append(self.path)
            self.wfile.write(b'\r\n'.join([*self.lines, b'', BODY[:9]]))

    server = HTTPServer(('127.0.0.1', 0), Odd)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in dict(
            AWS_ACCESS_KEY_ID='AKIATESTTEST',
            AWS_SECRET_ACCESS_KEY='geheim123456',
            AWS_ENDPOINT_URL=f'http://127.0.0.1:{server.server_port}').items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class('s3').clear_instance_cache()
    yield Odd
    fsspec.get_filesystem_class('s3').clear_instance_cache()
    far_ranges._PASSED_ON.clear()
    far_ranges._signed.cache_clear()
    server.shutdown()
    server.server_close()


def test_no_redirection_is_followed(odd):
    """Nor is a signature sent anywhere else."""
    odd.lines[:] = [b'HTTP/1.1 307 x', b'Content-Length: 9',
                    b'Location: /elsewhere']
    assert read_range('s3://bucket/0.tar', 0, 9) is None
    assert len(odd.asked) == 1


def test_no_log_has_a_signature(odd, caplog):
    """urllib3 warns of damaged headers, with the URL."""
    caplog.set_level('DEBUG', 'urllib3')
    odd.lines[:] = [b'HTTP/1.1 206 x', b'Content-Length: 9', b'a damaged line']
    assert read_range('s3://bucket/0.tar', 0, 9) == BODY[:9]
    assert odd.asked and 'ignature' in odd.asked[-1]
    assert 'ignature' not in caplog.text
