"""OCI registries: the contract on a real one, its logins, and its manifests."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_tokens import ISSUER, SERVICE, TokenServer
from servers import Registry, find_program, missing
from store_contract import BLOB, OBJECTS
from writing_contract import Reopen, WritingContract, fill

from p2u.errors import FormatError, NotFoundError, StoreError, UsageError
from p2u.stores import ABSENT, Store, open_store, open_writable
from p2u.stores.oci import MANIFEST, parse_layers
from p2u.stores.oci_access import Login, find_login

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def no_logins(no_credentials: None) -> None:
    """Have no credentials of this machine."""


def fresh(registry: Registry) -> str:
    """The URL of a repository that no other test uses."""
    return f"oci://{registry.host}/team/model-{next(_numbers)}:v1"


class TestOci(WritingContract):
    @pytest.fixture
    def reopen(self, registry: Registry) -> Reopen:
        url = fresh(registry)
        return lambda: open_writable(url, stall_timeout=10)

    @pytest.fixture
    def store(self, registry: Registry) -> Iterator[Store]:
        url = f"oci://{registry.host}/contract"
        with open_writable(url) as store:
            if store.find("p2u.json") is None:
                fill(store)
        with open_store(f"{url}/p2u.json", stall_timeout=10) as opened:
            yield opened


def log_in(folder: Path, host: str, **entry: str) -> None:
    """Write docker's file."""
    auths = {host: entry}
    (folder / "config.json").write_text(json.dumps({"auths": auths}))


def text_of(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of docker's file."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


def use(url: str) -> None:
    """Write and read with a login."""
    with open_writable(url) as store:
        store.put("v1/a.bin", b"content")
        store.put("p2u.json", b"{}", tag=ABSENT)
    with open_store(url) as store:
        assert store.read("p2u.json", limit=10) == b"{}"
        assert b"".join(store.stream("v1/a.bin", 3, 4)) == b"tent"


def test_basic_login(docker: Path) -> None:
    htpasswd = find_program("htpasswd")
    if htpasswd is None:
        missing("htpasswd", "Debian: apt-get install apache2-utils")
    made = subprocess.run([htpasswd, "-Bbn", "ann", "s3cr3t"], capture_output=True, check=True)
    auth = "auth: {htpasswd: {realm: tests, path: '{work}/users'}}\n"
    with Registry(auth, {"users": made.stdout}) as registry:
        url = f"oci://{registry.host}/team/model"
        with open_writable(url) as store, pytest.raises(StoreError, match="denied") as caught:
            store.put("a", b"x")
        assert "docker" in str(caught.value)
        log_in(docker, registry.host, auth=text_of("ann", "wrong"))
        with open_writable(url) as store, pytest.raises(StoreError, match="denied"):
            store.put("a", b"x")
        log_in(docker, registry.host, auth=text_of("ann", "s3cr3t"))
        use(url)


@pytest.fixture
def token_server(tmp_path: Path) -> Iterator[TokenServer]:
    if find_program("openssl") is None:
        missing("openssl", "Debian: apt-get install openssl")
    logins = {"": ["pull"], "ann:s3cr3t": ["pull", "push"], "refresh-me": ["pull", "push"]}
    with TokenServer(tmp_path, logins) as server:
        yield server


@pytest.fixture
def guarded(token_server: TokenServer) -> Iterator[Registry]:
    auth = (
        f"auth: {{token: {{realm: '{token_server.url}', service: {SERVICE}, issuer: {ISSUER}, "
        "rootcertbundle: '{work}/cert.pem'}}\n"
    )
    with Registry(auth, {"cert.pem": token_server.certificate}) as registry:
        yield registry


def test_tokens(guarded: Registry, docker: Path, token_server: TokenServer) -> None:
    url = f"oci://{guarded.host}/team/model:v1"
    with open_writable(url) as store, pytest.raises(StoreError, match="denied"):
        store.put("a", b"x")  # anonymous ones may only pull
    log_in(docker, guarded.host, auth=text_of("ann", "s3cr3t"))
    use(url)
    log_in(docker, guarded.host)
    with open_store(url) as store:
        assert store.read("p2u.json", limit=10) == b"{}"


def test_a_token_to_refresh(guarded: Registry, docker: Path) -> None:
    log_in(docker, guarded.host, identitytoken="refresh-me")
    use(f"oci://{guarded.host}/team/other")


def test_a_token_that_expires_is_asked_for_anew(
    guarded: Registry, docker: Path, token_server: TokenServer
) -> None:
    log_in(docker, guarded.host, auth=text_of("ann", "s3cr3t"))
    url = f"oci://{guarded.host}/team/model:v1"
    use(url)
    token_server.lifetime = -59  # the registry allows a minute more
    with open_store(url) as store:
        assert store.read("p2u.json", limit=10) == b"{}"
        before = token_server.given
        time.sleep(2.1)
        assert b"".join(store.stream("v1/a.bin", 0, 7)) == b"content"
        assert token_server.given > before


def test_a_helper_has_the_login(
    docker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "docker-credential-toy"
    answer = '{"Username": "%s", "Secret": "x"}'
    helper.write_text(f"#!/bin/sh\nread host\nprintf '{answer}' \"$host\"\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (docker / "config.json").write_text('{"credHelpers": {"r.example:5000": "toy"}}')
    assert find_login("r.example:5000") == Login("r.example:5000", "x")
    assert find_login("other.example") is None


@pytest.mark.parametrize(
    "url",
    ["oci://", "oci://host", "oci://h/UPPER:v1", "oci://host/repo:bad tag", "oci://u:p@host/repo"],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(UsageError):
        open_store(url)


def test_a_digest_is_read_only_and_pinned(registry: Registry) -> None:
    url = fresh(registry)
    with open_writable(url) as store:
        store.put("p2u.json", b"one", tag=ABSENT)
        digest = store.read_tagged("p2u.json", limit=10)[1]
        store.put("p2u.json", b"two", tag=digest)
    with open_writable(f"{url}@{digest}") as store:
        assert store.read("p2u.json", limit=10) == b"one"
        with pytest.raises(UsageError, match="digest"):
            store.put("a", b"x")


def test_other_tools_see_a_model(registry: Registry) -> None:
    url = fresh(registry)
    with open_writable(url) as store:
        fill(store)
    place = url.removeprefix(f"oci://{registry.host}/").replace(":", "/manifests/")
    request = urllib.request.Request(f"{registry.url}/v2/{place}", headers={"Accept": MANIFEST})
    with urllib.request.urlopen(request) as response:
        assert response.headers["Content-Type"] == MANIFEST
        tree = json.load(response)
    assert tree["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert tree["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    kinds = {layer["annotations"]["org.cncf.model.filepath"]: layer for layer in tree["layers"]}
    assert kinds.keys() == OBJECTS.keys()
    assert kinds[BLOB]["mediaType"] == "application/vnd.cncf.model.weight.v1.raw"
    assert kinds[BLOB]["digest"] == "sha256:" + hashlib.sha256(OBJECTS[BLOB]).hexdigest()


def test_an_image_is_no_package(registry: Registry) -> None:
    with open_store(fresh(registry)) as store, pytest.raises(NotFoundError):
        store.read("p2u.json", limit=10)


def put_manifest(registry: Registry, url: str, data: bytes) -> None:
    """Put any manifest that the registry accepts."""
    place = url.removeprefix(f"oci://{registry.host}/").replace(":", "/manifests/")
    request = urllib.request.Request(
        f"{registry.url}/v2/{place}", data, {"Content-Type": MANIFEST}, method="PUT"
    )
    urllib.request.urlopen(request).close()


def test_layers_with_names_that_lead_away_are_no_objects(registry: Registry) -> None:
    url = fresh(registry)
    with open_writable(url) as store:
        fill(store)
        place = url.removeprefix(f"oci://{registry.host}/").replace(":", "/manifests/")
        request = urllib.request.Request(f"{registry.url}/v2/{place}", headers={"Accept": MANIFEST})
        with urllib.request.urlopen(request) as response:
            tree = json.load(response)
        for layer in tree["layers"]:
            if layer["annotations"]["org.cncf.model.filepath"] == BLOB:
                layer["annotations"] = {"org.cncf.model.filepath": "../../outside"}
        put_manifest(registry, url, json.dumps(tree).encode())
        assert {found.key for found in store.list_objects()} == OBJECTS.keys() - {BLOB}


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"not JSON",
        b'{"layers": 7}',
        b'{"layers": [7]}',
        b'{"layers": [{"digest": "md5:1", "size": 1, "annotations": {}}]}',
        b'{"layers": [{"digest": "sha256:' + b"0" * 64 + b'", "size": -1}]}',
        b'{"layers": ' + b"[" * 100_000,
    ],
)
def test_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_layers(data, "oci://host/repo")


def test_a_layer_that_is_damaged(registry: Registry) -> None:
    url = fresh(registry)
    with open_writable(url) as store:
        store.put("p2u.json", b"{}", tag=ABSENT)
        digest = hashlib.sha256(b"{}").hexdigest()
        path = registry.work / "data/docker/registry/v2/blobs/sha256" / digest[:2] / digest / "data"
        path.write_bytes(b"[]")
        with pytest.raises(StoreError, match="digest"):
            store.read("p2u.json", limit=10)
        path.write_bytes(b"{}")
