"""The settings of buckets from the usual variables and files, as far as obstore has them not.

obstore itself reads ``AWS_*``, ``GOOGLE_*`` and ``AZURE_*``, and asks the metadata services of the
clouds. Added here: the files of the AWS command line, an S3 endpoint of its own, the connection
string of Azure, and the emulators.
"""

from __future__ import annotations

import configparser
import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from p2u.errors import UnsupportedError, UsageError

Settings = dict[str, object]


def of(scheme: str) -> Settings:
    """The settings for a scheme: ``s3``, ``gs`` or ``az``."""
    return {"s3": _aws, "gs": _google, "az": _azure}[scheme]()


def is_plain(settings: Settings) -> bool:
    """Whether the place is reached without TLS, because its URL says so."""
    places = [settings.get("endpoint"), os.environ.get("AZURE_STORAGE_ENDPOINT")]
    places.append("http://" if settings.get("service_account_key") else None)
    return any(str(place or "").startswith("http://") for place in places)


def _aws() -> Settings:
    found: Settings = {}
    files = _aws_profile()
    if not os.environ.get("AWS_ACCESS_KEY_ID") and "aws_access_key_id" in files:
        for name, key in (
            ("access_key_id", "aws_access_key_id"),
            ("secret_access_key", "aws_secret_access_key"),
            ("session_token", "aws_session_token"),
        ):
            if files.get(key):
                found[name] = files[key]
    if not any(os.environ.get(name) for name in ("AWS_REGION", "AWS_DEFAULT_REGION")):
        found["region"] = files.get("region", "us-east-1")
    endpoint = (
        os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or files.get("endpoint_url")
    )
    if endpoint:
        found["endpoint"] = endpoint
    return found


def aws_provider(url: str) -> Any:
    """What gives credentials for a profile that has none itself: SSO, a role, a program.

    Returns:
        A provider of obstore's; None where the variables or the files have keys, or nothing.

    Raises:
        UnsupportedError: boto3, which knows how, is not installed.
        UsageError: It finds none either.
    """
    files = _aws_profile()
    if os.environ.get("AWS_ACCESS_KEY_ID") or "aws_access_key_id" in files:
        return None
    if not files.keys() & {"sso_session", "sso_start_url", "role_arn", "credential_process"}:
        return None
    try:
        auth = import_module("obstore.auth.boto3")
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "the profile of AWS has no keys, and what it names instead needs the library boto3",
            file=url,
            hint="Install it: pip install boto3; or set AWS_ACCESS_KEY_ID",
        ) from error
    try:
        return auth.Boto3CredentialProvider()
    except Exception as error:
        raise UsageError(
            f"boto3 found no credentials ({type(error).__name__})",
            file=url,
            hint="Log in: aws sso login",
        ) from error


def _aws_profile() -> dict[str, str]:
    """What the files of the AWS command line say for the profile in use."""
    profile = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or "default"
    folder = Path.home() / ".aws"
    found: dict[str, str] = {}
    for variable, path, section in (
        ("AWS_CONFIG_FILE", folder / "config", f"profile {profile}"),
        ("AWS_SHARED_CREDENTIALS_FILE", folder / "credentials", profile),
    ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(Path(os.environ.get(variable) or path).expanduser(), encoding="utf-8")
        except (OSError, configparser.Error, UnicodeDecodeError):
            continue  # as if it were not there: the variables may have all
        for name in (section, profile):
            if parser.has_section(name):
                found.update(parser.items(name))
                break
    return found


def _google() -> Settings:
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if not emulator:
        return {}
    place = emulator if "://" in emulator else f"http://{emulator}"
    # The library takes another host from a service account only.
    account = {
        "gcs_base_url": place.rstrip("/"),
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    return {"service_account_key": json.dumps(account)}


def _azure() -> Settings:
    text = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    parts = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    found: Settings = {}
    for name, key in (
        ("account_name", "AccountName"),
        ("account_key", "AccountKey"),
        ("sas_key", "SharedAccessSignature"),
        ("endpoint", "BlobEndpoint"),
    ):
        if parts.get(key):
            found[name] = parts[key]
    return found
