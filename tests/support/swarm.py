"""BitTorrent on loopback: a tracker, and clients of libtorrent that know nobody else."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from loopback import LoopbackServers
from servers import missing

try:
    import libtorrent
except ModuleNotFoundError:
    libtorrent = None


def check_library() -> None:
    """Skip, or fail where all is to be installed."""
    if libtorrent is None:
        missing("libtorrent", "pip install libtorrent")


class Tracker(LoopbackServers):
    """Tells each client of all others.

    Attributes:
        url: To announce to.
        ports: Of the clients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ports: set[int] = set()
        self.url = self.serve(_Announce, tracker=self) + "/announce"


class _Announce(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        ports: set[int] = self.server.tracker.ports  # type: ignore[attr-defined]
        ports.add(int(parse_qs(urlsplit(self.path).query, encoding="latin-1")["port"][0]))
        peers = b"".join(bytes([127, 0, 0, 1]) + port.to_bytes(2, "big") for port in sorted(ports))
        data = b"d8:intervali1e5:peers%d:%be" % (len(peers), peers)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Client:
    """A client of libtorrent with one torrent.

    Args:
        torrent: The file.
        folder: Where the package's folder is, or is to be.
        in_order: Whether pieces are fetched in their order.
        limit: Bytes per second that it takes; 0: any.
    """

    def __init__(
        self, torrent: Path, folder: Path, *, in_order: bool = False, limit: int = 0
    ) -> None:
        kinds = libtorrent.alert.category_t
        found_by = ("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp")
        self.session = libtorrent.session(
            {
                "listen_interfaces": "127.0.0.1:0",
                **dict.fromkeys(found_by, False),
                "allow_multiple_connections_per_ip": True,
                "alert_mask": kinds.piece_progress_notification,
                "alert_queue_size": 10_000,
            }
        )
        wanted = libtorrent.load_torrent_file(str(torrent))
        folder.mkdir(exist_ok=True)
        wanted.save_path = str(folder)
        if in_order:
            wanted.flags |= libtorrent.torrent_flags.sequential_download
        wanted.download_limit = limit
        self.handle = self.session.add_torrent(wanted)

    def is_complete(self) -> bool:
        """Whether all is here."""
        return bool(self.handle.status().is_seeding)

    def connect(self, other: Client) -> None:
        """Fetch from another one."""
        self.handle.connect_peer(("127.0.0.1", other.session.listen_port()))

    def select(self, files: tuple[int, ...]) -> set[int]:
        """Fetch only these files, which are numbered from 1 on; returns their pieces."""
        first: set[int] = set()
        info = self.handle.torrent_file()
        count = info.layout().num_files()
        self.handle.prioritize_files([4 if n + 1 in files else 0 for n in range(count)])
        for number in files:
            begin = info.map_file(number - 1, 0, 1).piece
            size = info.layout().file_size(number - 1)
            first.update(range(begin, begin + (size - 1) // info.piece_length() + 1))
        return first

    def pieces(self) -> list[int]:
        """The pieces that came since the last call, in their order."""
        alerts = self.session.pop_alerts()
        return [a.piece_index for a in alerts if isinstance(a, libtorrent.piece_finished_alert)]

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.session.pause()
        self.session.remove_torrent(self.handle)
        del self.handle, self.session
