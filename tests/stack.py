"""MLflow as a team has it, on this machine: PostgreSQL, an S3-compatible server, and `mlflow server` with passwords.

`make stack` starts all three on free ports of 127.0.0.1, prints the variables to export, and runs until Ctrl-C. Then it
ends them and removes everything that was stored. Tests use `Stack` through the fixture `stack` of `tests/e2e`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from mnist_sweep.cli import supervisor
from mnist_sweep.common import ports

BUCKET = "mlflow"
# Of this user of MLflow: may create experiments and models, and change its own.
USER = "alice"
# May read everything, and change nothing.
READER = "bob"
_READY_WITHIN = 120.0
_END_WITHIN = 10.0
# In a terminal, these follow `stop`, `kill` and `start`.
_HELP = """While it runs, parts can be disturbed one by one. Type a line such as:
  stop server       end mlflow server; also: stop postgres, stop s3 (its files are kept)
  kill server       the same with kill -9; kill postgres is its immediate shutdown
  start server      start it again, on the same port and with the same data
"""
_CONFIG = """\
[mlflow]
default_permission = READ
database_uri = {database}
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 300
"""


def missing() -> str | None:
    """Says what this machine lacks for the stack; None if it has everything."""
    packages = {"psycopg": "psycopg[binary]", "boto3": "boto3", "moto": "moto[server]", "flask_wtf": "Flask-WTF"}
    lacking = [name for module, name in packages.items() if find_spec(module) is None]
    if lacking:
        return f"needs {', '.join(lacking)}: pip install -e '.[test]'"
    if _binaries() is None:
        return "needs PostgreSQL: no initdb on the PATH or in /usr/lib/postgresql/*/bin"
    if os.getuid() == 0 and (_user() is None or shutil.which("setpriv") is None):
        return "PostgreSQL does not run as root, and there is no user postgres or nobody, or no setpriv"
    return None


def _binaries() -> Path | None:
    """The folder with `initdb` and `postgres`. Debian does not put it on the PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version)
    return next((folder for folder in reversed(folders) if (folder / "postgres").exists()), None)


def _version(folder: Path) -> float:
    with contextlib.suppress(ValueError):
        return float(folder.parent.name)
    return 0.0


def _user() -> pwd.struct_passwd | None:
    """Whom root lets run PostgreSQL."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses."""
    with ports.listen("127.0.0.1", 0) as taken:
        return int(taken.getsockname()[1])


def _wait_until(ready: Callable[[], bool], part: Part) -> None:
    until = time.monotonic() + _READY_WITHIN
    while not ready():
        if not part.running:
            raise RuntimeError(f"{part.name} ended at once:\n{part.log.read_text()[-3000:]}")
        if time.monotonic() > until:
            raise RuntimeError(f"{part.name} is not ready in time:\n{part.log.read_text()[-3000:]}")
        time.sleep(0.05)


def _accepts(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


class Part:
    """A server of the stack, which ends with this process, however that ends.

    Attributes:
        name: What `make stack` calls it.
        port: Its port on 127.0.0.1, the same after each start.
        log: The file with its output.
    """

    name = ""
    # How it is asked to end.
    end_signal = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        """Starts nothing yet.

        Args:
            folder: Where it keeps its files.
        """
        self.folder, self.port, self.log = folder, free_port(), folder / f"{self.name}.log"
        self._process: subprocess.Popen[str] | None = None
        self._group = 0

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it unless it answers, and waits until it does."""
        if self.running and self.ready():
            return
        self.launch()
        _wait_until(self.ready, self)

    def launch(self) -> None:
        """Starts it, and does not wait."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether it answers."""
        return _accepts(self.port)

    def stop(self) -> None:
        """Asks it to end, and waits until it has."""
        self._end(self.end_signal)

    def kill(self) -> None:
        """Ends it with `kill -9`."""
        self._end(signal.SIGKILL)

    def _run(self, command: Sequence[str], env: Mapping[str, str], folder: Path) -> None:
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", supervisor.__file__, *command],
                cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                # Ctrl-C is for `make stack`, which then ends its parts in their order.
                start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        self._group = int(self._process.stdout.readline())

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._group, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_WITHIN)
        assert process.stdin is not None
        assert process.stdout is not None
        # Then the supervisor ends what is left.
        process.stdin.close()
        process.wait()
        process.stdout.close()


class Postgres(Part):
    """PostgreSQL with the databases `mlflow` and `users`, and a role `mlflow` whose password is in no URI as it is."""

    name = "postgres"
    # PostgreSQL's "fast" shutdown: it disconnects its clients.
    end_signal = signal.SIGINT

    def __init__(self, folder: Path, *, fsync: bool = False) -> None:
        """Starts nothing yet.

        Args:
            folder: Where it keeps its files.
            fsync: Whether it waits for the disk, as a real one does.
        """
        super().__init__(folder)
        self._fsync = "on" if fsync else "off"
        # With characters that URIs write as %40 and the like.
        self.password = f"{secrets.token_urlsafe(9)}@/%:{secrets.token_urlsafe(9)}"
        self._data = folder / "data"

    def kill(self) -> None:
        """Ends it at once, so that its next start recovers. After `kill -9`, its child processes would stay."""
        self._end(signal.SIGQUIT)

    def uri(self, database: str = "mlflow", *, password: str | None = None) -> str:
        """The URI of a database, as for `MLFLOW_TRACKING_URI`."""
        login = f"mlflow:{quote(self.password if password is None else password, safe='')}"
        return f"postgresql://{login}@127.0.0.1:{self.port}/{database}"

    def launch(self) -> None:
        binaries, user = _binaries(), _user() if os.getuid() == 0 else None
        assert binaries is not None
        if user is not None:
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        drop = [] if user is None else ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        if not self._data.exists():
            given = self.folder / "password"
            given.write_text(self.password)
            subprocess.run(
                [*drop, str(binaries / "initdb"), "-D", str(self._data), "-U", "mlflow", "--pwfile", str(given),
                 "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"],
                cwd=self.folder, env=env, check=True, capture_output=True,
            )  # fmt: skip
        settings = {
            "listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": "",
            "fsync": self._fsync,
        }  # fmt: skip
        options = [text for key, value in settings.items() for text in ("-c", f"{key}={value}")]
        self._run([*drop, str(binaries / "postgres"), "-D", str(self._data), *options], env, self.folder)

    def ready(self) -> bool:
        import psycopg

        try:
            self.execute("SELECT 1", database="postgres")
        except psycopg.OperationalError:
            return False
        return True

    def create(self, database: str) -> None:
        """Creates an empty database."""
        self.execute(f'CREATE DATABASE "{database}"', database="postgres")

    def execute(self, statement: str, database: str = "mlflow") -> list[tuple[Any, ...]]:
        """Runs an SQL statement, and returns its rows if it has any."""
        import psycopg

        with psycopg.connect(self.uri(database), autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


class S3(Part):
    """moto as S3, with one bucket. It keeps its files in memory, also while it is stopped."""

    name = "s3"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.key, self.secret = f"AKIA{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30)
        self._up = False

    @property
    def env(self) -> dict[str, str]:
        """What a client of it needs in its environment."""
        return {
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self) -> Any:
        """A client of boto3."""
        import boto3

        return boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{self.port}", aws_access_key_id=self.key,
            aws_secret_access_key=self.secret, region_name="us-east-1",
        )  # fmt: skip

    def files(self, prefix: str = "") -> list[str]:
        """The names of all files in the bucket."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", ())]

    def launch(self) -> None:
        if not self.running:
            with open(self.log, "ab") as log:
                # The child ends when its standard input is closed.
                self._process = subprocess.Popen(
                    [sys.executable, __file__, "--s3-on", str(self.port)],
                    cwd=self.folder, env={**os.environ, "PYTHONPATH": str(Path(supervisor.__file__).parents[2])},
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
                )  # fmt: skip
            return
        self._say("start")

    def start(self) -> None:
        super().start()
        if not self._up:
            self._up = True
            self.client().create_bucket(Bucket=BUCKET)

    def stop(self) -> None:
        """Stops listening, and ends all connections. Its files are there when it is started again."""
        self._say("stop")

    def kill(self) -> None:
        self.stop()

    def close(self) -> None:
        """Ends its process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _say(self, word: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(word, file=self._process.stdin, flush=True)
        self._process.stdout.readline()


class Server(Part):
    """`mlflow server` with basic auth; its runs are in PostgreSQL, its files in S3."""

    name = "server"

    def __init__(self, folder: Path, postgres: Postgres, s3: S3) -> None:
        super().__init__(folder)
        self._postgres, self._s3 = postgres, s3
        self.uri = f"http://127.0.0.1:{self.port}"
        self.passwords = {name: secrets.token_urlsafe(15) for name in ("admin", USER, READER)}
        # The command and the environment of the server itself, which `mlflow server` starts after seconds of its own.
        self._itself: tuple[list[str], dict[str, str]] | None = None

    def env(self, user: str = USER) -> dict[str, str]:
        """What a client of it needs in its environment."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": self.passwords[user],
        }

    def launch(self) -> None:
        if self._itself is not None:
            self._run(*self._itself, self.folder)
            return
        config = self.folder / "basic_auth.ini"
        # configparser reads %% as one percent sign.
        config.write_text(_CONFIG.format(database=self._postgres.uri("users").replace("%", "%%")))
        config.chmod(0o600)
        env = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "AWS"))} | {
            **self._s3.env,
            "MLFLOW_BACKEND_STORE_URI": self._postgres.uri(),
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.passwords["admin"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # `mlflow server` runs uvicorn, which is on the PATH only in an activated environment.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--app-name", "basic-auth", "--artifacts-destination", f"s3://{BUCKET}/artifacts",
        ]  # fmt: skip
        self._run(command, env, self.folder)

    def ready(self) -> bool:
        try:
            with _DIRECT.open(f"{self.uri}/health", timeout=2):
                return True
        except (OSError, urllib.error.URLError):
            return False

    def start(self) -> None:
        super().start()
        if self._itself is None:
            for name in (USER, READER):
                self.ask("2.0/mlflow/users/create", {"username": name, "password": self.passwords[name]}, "admin")
            (itself,) = psutil.Process(self._group).children()
            self._itself = itself.cmdline(), itself.environ()

    def ask(self, path: str, content: Mapping[str, Any] | None = None, user: str = USER) -> dict[str, Any]:
        """Calls its REST API, such as `2.0/mlflow/runs/get?run_id=…`; with content it is a POST."""
        login = b64encode(f"{user}:{self.passwords[user]}".encode()).decode()
        request = urllib.request.Request(
            f"{self.uri}/api/{path}",
            None if content is None else json.dumps(content).encode(),
            {"Authorization": f"Basic {login}", "Content-Type": "application/json"},
        )
        with _DIRECT.open(request, timeout=30) as answer:
            return dict(json.loads(answer.read() or b"{}"))


# Not through a proxy, which cannot reach this machine's ports.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Stack:
    """All three.

    Attributes:
        postgres: The database.
        s3: The place of all files.
        server: The tracking server.

    Example:
        >>> with Stack() as stack:
        ...     subprocess.run(["python", "-m", "mnist_sweep", "+experiment=quick"], env={**os.environ, **stack.env()})
    """

    def __init__(self) -> None:
        """Starts nothing yet; raises RuntimeError if the machine lacks something."""
        lacking = missing()
        if lacking is not None:
            raise RuntimeError(f"the stack {lacking}")
        # Not in pytest's folder, which the user who runs PostgreSQL may not enter.
        self.folder = Path(tempfile.mkdtemp(prefix="mnist_sweep-stack-"))
        self.folder.chmod(0o755)
        folders = [self.folder / name for name in ("postgres", "s3", "server")]
        for folder in folders:
            folder.mkdir(mode=0o700)
        self.postgres, self.s3 = Postgres(folders[0]), S3(folders[1])
        self.server = Server(folders[2], self.postgres, self.s3)
        self.parts: dict[str, Part] = {part.name: part for part in (self.postgres, self.s3, self.server)}

    def start(self) -> None:
        """Starts the parts, each as soon as what it needs is there."""
        with ThreadPoolExecutor() as beside:
            s3 = beside.submit(self.s3.start)
            self.postgres.start()
            for name in ("mlflow", "users"):
                self.postgres.create(name)
            self.server.start()
            s3.result()

    def close(self) -> None:
        """Ends the parts and removes all that they stored."""
        self.server.kill()
        self.s3.close()
        # Not killed: that would leave its shared memory behind.
        self.postgres.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def env(self, user: str = USER) -> dict[str, str]:
        """The variables for a machine that uses the server: it needs no access to PostgreSQL and S3."""
        return self.server.env(user)

    def direct_env(self, database: str = "mlflow") -> dict[str, str]:
        """The variables for a machine that uses the database itself, and puts files into S3."""
        return {"MLFLOW_TRACKING_URI": self.postgres.uri(database), **self.s3.env}

    @property
    def secrets(self) -> list[str]:
        """Every password of it, and as URIs write it."""
        plain = [self.postgres.password, self.s3.secret, *self.server.passwords.values()]
        return list(dict.fromkeys([*plain, *(quote(text, safe="") for text in plain)]))

    def __enter__(self) -> Stack:
        """Starts it."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        self.close()


def _serve_s3(port: int) -> None:
    """Runs moto in this process; lines on standard input stop and start its port, and its end ends the process."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    class Handler(MotoRequestHandler):
        # Without connections that stay open: they would still be answered after a stop.
        protocol_version = "HTTP/1.0"

    def start() -> Any:
        server = make_server("127.0.0.1", port, application, threaded=True, request_handler=Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    application = DomainDispatcherApplication(create_backend_app)
    serving = start()
    for line in sys.stdin:
        if line.strip() == "stop" and serving is not None:
            serving.shutdown()
            serving = None
        elif line.strip() == "start" and serving is None:
            serving = start()
        print("done", flush=True)


def _exports(variables: Mapping[str, str]) -> str:
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def _obey(stack: Stack, line: str) -> None:
    """Does what a typed line says."""
    action, _, name = line.strip().partition(" ")
    part = stack.parts.get(name.strip())
    if part is None or action not in ("start", "stop", "kill"):
        print(_HELP if line.strip() else "", flush=True)
        return
    try:
        {"start": part.start, "stop": part.stop, "kill": part.kill}[action]()
    except RuntimeError as error:
        print(error, flush=True)
    else:
        print(f"{part.name}: {'started' if action == 'start' else 'stopped'}", flush=True)


def main(given: Sequence[str] | None = None) -> int:
    """Runs the stack until Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="make stack", description=__doc__, epilog=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--s3-on", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.s3_on is not None:
        _serve_s3(options.s3_on)
        return 0
    lacking = missing()
    if lacking is not None:
        print(f"make stack {lacking}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    print("Starting PostgreSQL, S3 and mlflow server; takes about 20 seconds …", flush=True)
    try:
        with Stack() as stack:
            print(f"\n# The server, as user {USER}. Export these in another terminal, and run sweeps there:")
            print(_exports(stack.env()))
            print(
                "\n# Or the database itself; files go to S3 with this override: tracking.artifacts=s3://mlflow/direct"
            )
            print(_exports(stack.direct_env()))
            print(f"\n# Or as a user who may only read:\n{_exports(stack.env(READER))}")
            print(
                f"\n{_HELP}\nLogs: {stack.folder}/*/*.log\nCtrl-C ends it and removes all that it stored.", flush=True
            )
            for line in sys.stdin:
                _obey(stack, line)
            # Not a terminal, such as `make stack < /dev/null &`.
            signal.pause()
    except KeyboardInterrupt:
        print("\nThe stack has ended.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
