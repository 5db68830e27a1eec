"""Open urllib3 connections, watched and through the right proxy; the only user of its pools."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import HTTPResponse

from p2u.errors import UnsupportedError, UsageError
from p2u.stores.http.urls import display_url
from p2u.stores.http.watchdog import Watchdog

if TYPE_CHECKING:
    import ssl

#: Connections kept open per host; more are opened when more threads ask, but not kept.
POOL_SIZE = 32


def _guarded(
    connection: HTTPConnection, dog: Watchdog, receive: Callable[[], HTTPResponse]
) -> HTTPResponse:
    """Receive the response's header within the connection's time-out as a whole."""
    sock = connection.sock
    timeout = connection.timeout
    limit = float(timeout) if isinstance(timeout, (int, float)) else 60.0
    # socket.socket's own shutdown: that of SSLSocket would drop the TLS state under the reader.
    with dog.watch(limit, lambda: socket.socket.shutdown(sock, socket.SHUT_RDWR)) as watch:
        try:
            response = receive()
        except Exception as error:
            if watch.fired:
                raise TimeoutError("the header did not arrive in time") from error
            raise
    if watch.fired:  # http.client takes a header that was cut off for a complete one
        response.close()
        raise TimeoutError("the header did not arrive in time")
    return response


class _IdleConnections(queue.LifoQueue[Any]):
    """The idle connections of a pool; they are closed when nobody has the pool any more."""

    def fork(self) -> None:
        """This is the child of a fork: a thread that held the lock is not here, nor are its calls.

        Without this the child would wait for the lock as soon as it drops the pool.
        """
        super().__init__(self.maxsize)


#: Makes the idle connections of a pool with so many places.
_Idle = Callable[[int], _IdleConnections]


def _pool_classes(dog: Watchdog, idle: _Idle) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's pools with connections that the watchdog guards."""

    class Plain(HTTPConnection):
        def getresponse(self) -> HTTPResponse:  # type: ignore[override]
            return _guarded(self, dog, super().getresponse)

    class Tls(HTTPSConnection):
        def getresponse(self) -> HTTPResponse:  # type: ignore[override]
            return _guarded(self, dog, super().getresponse)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain
        QueueCls = staticmethod(idle)  # type: ignore[assignment]

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = Tls
        QueueCls = staticmethod(idle)  # type: ignore[assignment]

    return {"http": PlainPool, "https": TlsPool}


class Connections:
    """Pools of connections, one per host and proxy; the proxies of the environment are used."""

    def __init__(self, dog: Watchdog, connect_timeout: float, stall_timeout: float) -> None:
        self._dog = dog
        self._timeout = urllib3.Timeout(connect=connect_timeout, read=stall_timeout)
        self._lock = threading.Lock()
        self._managers: dict[tuple[str | None, str], urllib3.PoolManager] = {}
        self._idle: weakref.WeakSet[_IdleConnections] = weakref.WeakSet()

    def _new_idle(self, size: int) -> _IdleConnections:
        made = _IdleConnections(size)
        self._idle.add(made)
        return made

    def get(self, url: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """Send a GET; see `send`."""
        return self.send("GET", url, headers)

    def send(
        self, method: str, url: str, headers: dict[str, str], body: bytes | BinaryIO | None = None
    ) -> urllib3.BaseHTTPResponse:
        """Send a request and return the response with its body not read; follow no redirects.

        Raises:
            urllib3.exceptions.HTTPError, OSError, http.client.HTTPException: No response.
            UnsupportedError, UsageError: The environment's proxy or authorities cannot be used.
        """
        return self._manager(url).request(
            method,
            url,
            body=body,
            headers=headers,
            preload_content=False,
            decode_content=False,
            redirect=False,
            retries=False,
        )

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            for manager in self._managers.values():
                manager.clear()

    def fork(self) -> None:
        """This is the child of a fork: the parent goes on with these connections."""
        self._lock = threading.Lock()
        for idle in self._idle:
            idle.fork()
        self._managers = {}

    def _manager(self, url: str) -> urllib3.PoolManager:
        which = proxy_for(url), urlsplit(url).scheme
        with self._lock:
            manager = self._managers.get(which)
            if manager is None:
                manager = self._managers[which] = self._new_manager(*which)
            return manager

    def _new_manager(self, proxy: str | None, scheme: str) -> urllib3.PoolManager:
        # One TLS context for all connections: urllib3 would load the authorities for each anew.
        options: dict[str, Any] = {"num_pools": 16, "maxsize": POOL_SIZE, "timeout": self._timeout}
        if scheme == "https":
            options["ssl_context"] = _tls_context()
        if proxy is None:
            manager = urllib3.PoolManager(**options)
        else:
            manager = _proxy_manager(proxy, options)
        manager.pool_classes_by_scheme = _pool_classes(self._dog, self._new_idle)
        return manager


def _proxy_manager(proxy: str, options: dict[str, Any]) -> urllib3.PoolManager:
    try:
        parts = urlsplit(proxy)
        login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        headers = urllib3.make_headers(proxy_basic_auth=login) if parts.username else None
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        return urllib3.ProxyManager(bare, proxy_headers=headers, **options)
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise UsageError(
            "the proxy setting of the environment is not valid",
            file=display_url(proxy),
            hint="Check http_proxy and https_proxy",
        ) from error


def proxy_for(url: str) -> str | None:
    """The proxy that the environment (or the system's settings) wants for a URL.

    Raises:
        UnsupportedError: A SOCKS proxy.
    """
    named = any(name.lower().endswith("_proxy") for name in os.environ)
    if not named and sys.platform not in ("darwin", "win32"):
        return None
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    host = parts.hostname or ""
    # A proxy cannot reach the server on this machine that we mean.
    if host in ("localhost", "::1") or host.startswith("127."):
        return None
    with contextlib.suppress(OSError):  # macOS and Windows look the host's name up
        if proxy_bypass(f"{host}:{parts.port}" if parts.port else host):
            return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy:
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if proxy.lower().startswith("socks"):
        raise UnsupportedError(
            "SOCKS proxies are not supported",
            file=display_url(proxy),
            hint="Set http_proxy and https_proxy to an HTTP proxy, or no_proxy to this host",
        )
    return proxy


def _tls_context() -> ssl.SSLContext:
    """Certificates are verified against the platform's authorities or those the user names."""
    import ssl

    # SSL_CERT_FILE and SSL_CERT_DIR are read by OpenSSL itself.
    named = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    paths = ssl.get_default_verify_paths()
    if not (named or paths.cafile or paths.capath or sys.platform == "win32"):
        with contextlib.suppress(ImportError):  # a Python of its own, as python.org's for macOS
            import certifi

            named = certifi.where()
    try:
        if named and Path(named).is_dir():
            return ssl.create_default_context(capath=named)
        return ssl.create_default_context(cafile=named)
    except OSError as error:
        raise UsageError(
            f"the certificate authorities could not be read ({error.strerror or error})",
            file=named,
            hint="Check REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE",
        ) from error
