"""Access to an OCI registry: credentials of docker's files, and the tokens that they buy."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from p2u.errors import StoreError
from p2u.stores.http.addressed import AddressedStore

_PARAMETER = re.compile(r'([A-Za-z_]+)="([^"]*)"')
#: The name of Docker's registry in the files.
_DOCKER = "https://index.docker.io/v1/"


@dataclass(frozen=True, slots=True)
class Login:
    """A user of a registry.

    Attributes:
        user: Empty if there is a token instead.
        secret: The password, or a token to refresh.
    """

    user: str
    secret: str

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()


def find_login(host: str) -> Login | None:
    """The login for a registry from docker's or podman's file, or a helper; None if none.

    Args:
        host: With its port.
    """
    for path in _files():
        try:
            tree: Any = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(tree, dict) and (found := _login(tree, host)):
            return found
    return None


def _files() -> list[Path]:
    named = os.environ.get("REGISTRY_AUTH_FILE")
    docker = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    found = [Path(named)] if named else []
    found.append(docker)
    if runtime:
        found.append(Path(runtime) / "containers" / "auth.json")
    return found


def _login(tree: dict[str, Any], host: str) -> Login | None:
    names = [host, f"https://{host}", f"http://{host}"]
    if host in ("docker.io", "registry-1.docker.io", "index.docker.io"):
        names.append(_DOCKER)
    helpers, auths = tree.get("credHelpers") or {}, tree.get("auths") or {}
    for name in names:
        helper = helpers.get(name) or tree.get("credsStore")
        if helper and (found := _ask_helper(str(helper), name)):
            return found
        entry = auths.get(name) or {}
        if token := entry.get("identitytoken"):
            return Login("", str(token))
        if text := entry.get("auth"):
            try:
                user, _, secret = base64.b64decode(text).decode().partition(":")
            except ValueError:
                continue
            return Login(user, secret.rstrip("\0"))
    return None


def _ask_helper(helper: str, name: str) -> Login | None:
    """What docker's credential helper has for a registry."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", helper):
        return None
    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", "get"],
            input=name.encode(),
            capture_output=True,
            timeout=30,
            check=True,
        )
        tree = json.loads(done.stdout)
        user, secret = str(tree["Username"]), str(tree["Secret"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return None
    return Login("" if user == "<token>" else user, secret)


class RegistryAccess:
    """Answers a registry's demand for credentials.

    Args:
        root: ``https://host:port``.
        host: With its port.
        repository: The name that tokens are for.
    """

    def __init__(self, root: str, host: str, repository: str) -> None:
        self._root = root
        self._host = host
        self._repository = repository
        #: Whether tokens shall allow writing.
        self.writes = False

    def headers(self, store: AddressedStore) -> dict[str, str] | None:
        """The headers that give access; None if there are none, or nobody asks for any.

        Raises:
            StoreError: The registry or its token server cannot be reached, or refuses.
        """
        answer = store.call(
            "GET", f"{self._root}/v2/", headers={"Authorization": ""}, accept=(200, 401, 403, 404)
        )
        demand = answer.headers.get("WWW-Authenticate", "")
        login = find_login(self._host)
        kind = demand.split(" ", 1)[0].lower()
        if kind == "basic" and login is not None:
            return {"Authorization": login.basic}
        if kind == "bearer":
            fields = dict(_PARAMETER.findall(demand))
            return {"Authorization": f"Bearer {self._token(store, fields, login)}"}
        return None

    def _token(self, store: AddressedStore, fields: dict[str, str], login: Login | None) -> str:
        realm = fields.get("realm", "")
        if self._root.startswith("https:") and not realm.startswith("https:"):
            raise StoreError(
                "the registry's token server has no https URL, which is not safe",
                file=f"oci://{self._host}/{self._repository}",
                hint="Check the registry's configuration",
            )
        actions = "pull,push" if self.writes else "pull"
        asked = {"service": fields.get("service", ""), "scope": f"repository:{self._repository}:"}
        asked["scope"] += actions
        if login is not None and not login.user:
            form = {**asked, "grant_type": "refresh_token", "client_id": "p2u"}
            form["refresh_token"] = login.secret
            answer = store.call(
                "POST",
                realm,
                headers={"Content-Type": "application/x-www-form-urlencoded"},
                content=urlencode(form).encode(),
            )
        else:
            headers = {"Authorization": login.basic} if login else {"Authorization": ""}
            between = "&" if "?" in realm else "?"
            answer = store.call(
                "GET", realm + between + urlencode(asked, quote_via=quote), headers=headers
            )
        try:
            tree = json.loads(answer.data)
            token = tree.get("token") or tree["access_token"]
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            raise StoreError(
                "the token server's answer has no token",
                file=f"oci://{self._host}/{self._repository}",
                hint="Check the registry's configuration",
            ) from None
        return str(token)
