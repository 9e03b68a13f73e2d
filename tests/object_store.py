"""Fixtures: an S3 server process for all tests, and a bucket for each; looked at with boto3, which the program does not use."""

import contextlib
import json
import subprocess
import sys
import urllib.request
import uuid
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from storage.places import mirror_of

PROGRAM = Path(__file__).with_name("object_server.py")
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


class Bucket:
    """One bucket: what lies in it, and what goes wrong with it."""

    def __init__(self, endpoint):
        self.endpoint, self.name = endpoint, f"bucket-{uuid.uuid4().hex[:12]}"
        self.url = f"s3://{self.name}/some/where"
        self.environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true"}
        self.client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="tester",
            aws_secret_access_key="secret",
            config=Config(retries={"max_attempts": 1}),
        )
        self.client.create_bucket(Bucket=self.name)

    def mirror(self, folder):
        return mirror_of(folder, self.url)

    def keys(self, containing=""):
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ()) if containing in entry["Key"]]

    def get(self, key):
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def put(self, key, data):
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def delete(self, key):
        self.client.delete_object(Bucket=self.name, Key=key)

    def flip(self, key, at):
        data = bytearray(self.get(key))
        data[at] ^= 0x10
        self.put(key, bytes(data))

    @contextlib.contextmanager
    def faults(self, **told):
        self._post("_faults", told)
        try:
            yield
        finally:
            self._post("_faults", {})

    def requests(self):
        """Return the requests since the last call."""
        return json.loads(self._post("_requests", {}))

    def _post(self, path, body):
        return urllib.request.urlopen(f"{self.endpoint}/{path}", json.dumps(body).encode()).read()


@contextlib.contextmanager
def serving(port=0):
    """Run the server; yields its process and its address."""
    with subprocess.Popen([sys.executable, PROGRAM, str(port)], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@pytest.fixture(scope="session")
def object_server():
    with serving() as (_, endpoint):
        yield endpoint


@pytest.fixture
def bucket(object_server, monkeypatch):
    found = Bucket(object_server)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HYPERCOLUMNS_STORES", raising=False)
    monkeypatch.setenv("HYPERCOLUMNS_S3_SECONDS", "10")
    return found
