"""Say why a download failed, and what to do. Each cause has its own sentence.

The exceptions and logs of network libraries quote links, tokens and passwords of proxies. These sentences quote none.
"""

import errno
import logging
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies, select_proxy

NETWORK = ("requests", "urllib3", "httpx2", "httpcore2", "ssl", "socket")


@dataclass(frozen=True)
class Cause:
    """A cause of failure, and the way out; `lasting` if trying again cannot help."""

    text: str
    way_out: str
    lasting: bool = True

    def __str__(self) -> str:
        return f"{self.text}; {self.way_out}"


def chain(error: BaseException) -> Iterator[BaseException]:
    """An exception with all that it was raised from, or that it holds, as network libraries wrap them."""
    seen, waiting = set[int](), [error]
    while waiting:
        current = waiting.pop(0)
        if id(current) not in seen:
            seen.add(id(current))
            yield current
            held = (current.__cause__, current.__context__, getattr(current, "reason", None), *current.args)
            waiting += [one for one in held if isinstance(one, BaseException)]


def cause_on_disk(error: BaseException, folder: str) -> Cause | None:
    """Why a file could not be written, if that is the fault."""
    errors = list(chain(error))
    # Errors of connections have such numbers too, with other meanings.
    if any(type(one).__module__.partition(".")[0] in NETWORK for one in errors):
        return None
    numbers = {one.errno for one in errors if isinstance(one, OSError)}
    if errno.ENOSPC in numbers:
        return Cause(f"the disk of {folder} is full", "free some space and run again")
    if errno.EDQUOT in numbers:
        return Cause(f"your quota on the disk of {folder} is used up", "free some space and run again")
    if numbers & {errno.EACCES, errno.EPERM, errno.EROFS}:
        return Cause(f"{folder} cannot be written to", "change its permissions and run again")
    return None


def cause_on_network(error: BaseException, url: str) -> Cause:
    """Why a host could not be reached, or broke off, by the names of exceptions of requests, urllib3 and httpx."""
    errors = list(chain(error))
    names = {type(one).__name__ for one in errors}
    text = " ".join(str(one) for one in errors)
    host = urlsplit(url).hostname or "the host"
    proxy = _proxy(url)
    if "SOCKS" in text and names & {"ImportError", "InvalidSchema"}:
        return Cause(
            "the proxy is a SOCKS proxy, for which Python packages are missing",
            "install them (.venv/bin/python -m pip install PySocks socksio), or name an HTTP proxy in HTTPS_PROXY and"
            " unset ALL_PROXY",
        )
    if re.search("(Proxy|proxy).*(407|Proxy Authentication)|407 Proxy", text):
        return Cause(
            f"{proxy or 'the proxy'} asks for a password",
            "put it into HTTPS_PROXY, as in http://USER:PASSWORD@HOST:PORT, with special letters percent-encoded",
        )
    if proxy is None or re.search("(?i)proxy url|unknown scheme for proxy", text):
        return Cause(
            "the address of the proxy is wrong", "write it as http://HOST:PORT in HTTPS_PROXY, or unset HTTPS_PROXY"
        )
    if re.search("CA certificate bundle|TLS certificate file", text) or (
        "FileNotFoundError" in names and os.environ.get("SSL_CERT_FILE")
    ):
        return Cause(
            "the file with trusted certificates is not there",
            "correct or unset REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE and SSL_CERT_FILE",
        )
    if certificate := next((one for one in errors if isinstance(one, ssl.SSLCertVerificationError)), None):
        return Cause(
            f"the certificate of {host} is not trusted ({certificate.verify_message or certificate.reason})",
            "check this machine's date; where a company's proxy puts its own certificate in between, name the company's"
            " certificates, a .pem file, in both REQUESTS_CA_BUNDLE and SSL_CERT_FILE",
        )
    if names & {"SSLError", "SSLEOFError"}:
        return Cause(
            f"no secure connection to {host} could be made",
            "check whether a proxy or a firewall is in between, and name the proxy in HTTPS_PROXY",
        )
    if names & {
        "InvalidSchema",
        "UnsupportedProtocol",
        "InvalidURL",
        "MissingSchema",
        "LocationParseError",
        "ValueError",
    }:
        return Cause(f"{host} leads to an address that is none of the web", "compare the link with the publisher's")
    if "TooManyRedirects" in names:
        return Cause(f"{host} leads from address to address without an end", "ask for a new link")
    unreached = names & {"ConnectTimeout", "ConnectTimeoutError", "ConnectionRefusedError", "gaierror", "ConnectError"}
    if "ProxyError" in names or (proxy and unreached):
        return Cause(
            f"{proxy or 'the proxy'} could not be reached or refuses the connection",
            "correct HTTPS_PROXY, or unset it where no proxy is needed",
            lasting=False,
        )
    if names & {"gaierror", "NameResolutionError"}:
        return Cause(
            f"the name {host} was not found",
            "check the network, and HTTPS_PROXY where a proxy is needed",
            lasting=False,
        )
    if names & {"ConnectTimeout", "ConnectTimeoutError"}:
        return Cause(
            f"{host} did not answer in time",
            "check the network, and HTTPS_PROXY where a firewall lets through a proxy only",
            lasting=False,
        )
    if names & {"ReadTimeout", "ReadTimeoutError", "WriteTimeout", "PoolTimeout"} or "timed out" in text.lower():
        return Cause(f"{host} sent nothing for too long", "check the network and run again", lasting=False)
    if "ConnectionRefusedError" in names:
        return Cause(f"{host} refused the connection", "check the network and run again", lasting=False)
    if names & {"IncompleteRead", "ProtocolError", "RemoteProtocolError", "ReadError", "ConnectionResetError"}:
        return Cause(f"the connection to {host} broke", "check the network and run again", lasting=False)
    return Cause(
        f"{host} could not be reached ({type(error).__name__})", "check the network and run again", lasting=False
    )


def _proxy(url: str) -> str | None:
    """The proxy for an address, without its password; "" if there is none, None if it cannot be read."""
    address = select_proxy(url, get_environ_proxies(url))
    try:
        proxy = urlsplit(address or "")
        if address and not proxy.hostname:
            return None
        return f"the proxy {proxy.hostname}:{proxy.port}" if address else ""
    except ValueError:
        return None


@contextmanager
def logging_off() -> Iterator[None]:
    """Log nothing meanwhile. Not by the level of one logger, because a level set on a child of it would prevail."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)
