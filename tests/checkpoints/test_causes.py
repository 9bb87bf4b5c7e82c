"""Causes that no server on this machine can give; the others are tested where they occur."""

import errno
import socket
import ssl

import httpx2
import pytest
import requests
import urllib3.exceptions as urllib3

from vit2onnx.checkpoints.causes import cause_on_disk, cause_on_network, chain

SECRET = "s3cr3t"
URL = f"https://user:{SECRET}@host.example.test/a.pth?Signature={SECRET}"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch) -> None:
    for name in ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def raised_from(outer: Exception, *inner: BaseException) -> Exception:
    """An exception that holds others as libraries wrap them."""
    error: BaseException = outer
    for one in inner:
        error.__cause__ = one
        error = one
    return outer


def certificate(message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, f"[SSL: CERTIFICATE_VERIFY_FAILED] {message}")
    error.verify_message = message
    return error


CAUSES = [
    (
        requests.exceptions.SSLError(
            urllib3.MaxRetryError(
                None, URL, urllib3.SSLError(certificate("self-signed certificate in certificate chain"))
            )
        ),
        "the certificate of host.example.test is not trusted (self-signed certificate in certificate chain); check",
    ),
    (
        raised_from(httpx2.ConnectError(SECRET), certificate("certificate has expired")),
        "is not trusted (certificate has expired); check this machine's date",
    ),
    (raised_from(httpx2.ConnectError(SECRET), ssl.SSLError("handshake")), "no secure connection to host.example.test"),
    (raised_from(httpx2.ConnectError(SECRET), socket.gaierror(-2, "x")), "the name host.example.test was not found"),
    (
        requests.ConnectionError(urllib3.NameResolutionError("host", None, socket.gaierror(-2, SECRET))),
        "the name host.example.test was not found",
    ),
    (httpx2.ConnectTimeout(SECRET), "host.example.test did not answer in time"),
    (requests.ConnectTimeout(urllib3.ConnectTimeoutError(SECRET)), "host.example.test did not answer in time"),
    (httpx2.ReadTimeout(SECRET), "host.example.test sent nothing for too long"),
    (requests.ReadTimeout(urllib3.ReadTimeoutError(None, URL, SECRET)), "sent nothing for too long"),
    (requests.ConnectionError(f"HTTPSConnectionPool: Read timed out. {SECRET}"), "sent nothing for too long"),
    (
        raised_from(requests.ConnectionError(SECRET), ConnectionResetError(104, SECRET)),
        "the connection to host.example.test broke",
    ),
    (
        requests.exceptions.ChunkedEncodingError(urllib3.IncompleteRead(1, 2)),
        "the connection to host.example.test broke",
    ),
    (httpx2.RemoteProtocolError(SECRET), "the connection to host.example.test broke"),
    (httpx2.ProxyError(f"407 Proxy Authentication Required {SECRET}"), "the proxy asks for a password"),
    (httpx2.ProxyError(f"503 {SECRET}"), "the proxy could not be reached or refuses"),
    (httpx2.UnsupportedProtocol(SECRET), "leads to an address that is none of the web"),
    (httpx2.TooManyRedirects(SECRET), "leads from address to address without an end"),
    (RuntimeError(SECRET), "host.example.test could not be reached (RuntimeError)"),
]


@pytest.mark.parametrize(("error", "says"), CAUSES)
def test_each_cause_has_its_own_sentence_without_a_secret(error, says):
    cause = str(cause_on_network(error, URL))
    assert says in cause
    assert SECRET not in cause
    assert cause_on_disk(error, "folder") is None


def test_a_connection_that_fails_with_a_proxy_is_the_proxys(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{SECRET}@proxy.example.test:3128")
    for error in (httpx2.ConnectTimeout("x"), raised_from(httpx2.ConnectError("x"), socket.gaierror(-2, "x"))):
        assert str(cause_on_network(error, URL)).startswith("the proxy proxy.example.test:3128 could not be reached")
    monkeypatch.setenv("NO_PROXY", "host.example.test")
    assert str(cause_on_network(httpx2.ConnectTimeout("x"), URL)).startswith("host.example.test did not answer")


def test_a_full_disk_is_found_behind_other_errors():
    error = raised_from(RuntimeError("x"), ValueError("y"), OSError(errno.ENOSPC, "no"))
    assert "the disk of folder is full; free some space" in str(cause_on_disk(error, "folder"))


def test_errors_that_hold_each_other_end():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__context__ = second, first
    assert list(chain(first)) == [first, second]
