"""An S3 server in a process of its own: moto's, made atomic, and able to fail when told to.

moto looks whether an object is there and writes it in two steps (of 300 races of eight clients for one name, with threads
switching every microsecond, five had several winners). Here requests that change something come one after another, so that a
conditional PUT is atomic by construction.

Run as a program it prints its port and serves until it is killed. `POST /_faults` with JSON sets what goes wrong from then on:
`methods`, `match` (a pattern of the path and query), and per matching request `delay` (seconds), `status` (answered instead),
`after` (the request is done first, then answered so: a lost answer), for `count` requests.
"""

import json
import re
import sys
import threading
import time

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

CODES = {403: "AccessDenied", 404: "NoSuchBucket", 500: "InternalError", 503: "SlowDown"}


class Faults:
    def __init__(self, app):
        self.app, self.one, self.told, self.guard = app, threading.Lock(), {}, threading.Lock()
        self.requests = []

    def __call__(self, environ, start):
        method, path = environ["REQUEST_METHOD"], f"{environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}"
        if path.startswith("/_"):
            return self.control(path, environ, start)
        self.requests.append(f"{method} {path}")
        fault = self.due(method, path)
        time.sleep(fault.get("delay", 0))
        if "status" in fault and not fault.get("after"):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            return self.answer(fault["status"], start)
        body = self.served(environ, start if "status" not in fault else lambda *_: None, method)
        return self.answer(fault["status"], start) if "status" in fault else body

    def served(self, environ, start, method):
        if method in ("GET", "HEAD"):
            return self.app(environ, start)
        with self.one:
            return list(self.app(environ, start))

    def due(self, method, path):
        with self.guard:
            told = self.told
            matches = told and method in told["methods"] and re.search(told["match"], path) and told["count"] > 0
            if not matches:
                return {}
            told["count"] -= 1
            return told

    def control(self, path, environ, start):
        if path.startswith("/_requests"):
            done, self.requests = self.requests, []
            start("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(done).encode()]
        told = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        with self.guard:
            self.told = (
                {"methods": ["GET", "HEAD", "PUT", "POST", "DELETE"], "match": "", "count": 10**9, **told} if told else {}
            )
        start("204 No Content", [])
        return []

    def answer(self, status, start):
        data = f"<Error><Code>{CODES[status]}</Code><Message>as told</Message></Error>".encode()
        start(f"{status} As Told", [("Content-Type", "application/xml"), ("Content-Length", str(len(data)))])
        return [data]


class Quiet(MotoRequestHandler):
    def log(self, *_):
        pass


if __name__ == "__main__":
    server = make_server("127.0.0.1", int(sys.argv[1]), Faults(DomainDispatcherApplication(create_backend_app)), True, 1, Quiet)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
