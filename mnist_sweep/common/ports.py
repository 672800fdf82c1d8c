"""Ports to listen on."""

from __future__ import annotations

import ipaddress
import os
import socket

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import first_line, os_reason

# Addresses that listen on all of a machine's interfaces.
EVERYWHERE = ("0.0.0.0", "::")

# Hosts that are this machine, as `requests`, urllib and httpx each understand them.
_LOOPBACK = ("localhost", "127.0.0.1", "127.0.0.0/8", "::1")
_NO_PROXY = ("no_proxy", "NO_PROXY")


def keep_loopback_direct() -> None:
    """Keeps this process, and those that it starts, from asking a proxy for the ports of this machine."""
    if not any(name.lower().endswith("_proxy") and name not in _NO_PROXY for name in os.environ):
        return
    given = [host.strip() for name in _NO_PROXY for host in os.environ.get(name, "").split(",")]
    if "*" not in given:
        hosts = dict.fromkeys([host for host in given if host] + list(_LOOPBACK))
        os.environ.update(dict.fromkeys(_NO_PROXY, ",".join(hosts)))


def in_url(host: str) -> str:
    """Returns the host part of a link to this server.

    Args:
        host: The address that the server listens on.
    """
    return "localhost" if host in EVERYWHERE else f"[{host}]" if ":" in host else host


def listen(host: str, port: int) -> socket.socket:
    """Opens a port.

    Args:
        host: The address to listen on.
        port: The port; 0 for any free one.

    Returns:
        A listening socket; connections wait until the server accepts them.

    Raises:
        UserError: The port is in use, or the machine does not have the address.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port={port}: must be from 0 to 65535")
    if not host:
        raise UserError("--host: is empty; give an address such as 127.0.0.1")
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        # Several sockets can bind the same port, as long as none of them listens.
        listening.listen()
    except (socket.gaierror, TypeError, UnicodeError) as error:
        listening.close()
        raise UserError(f"--host={host}: is not an address of this machine ({first_line(error)})") from None
    except OSError as error:
        listening.close()
        raise UserError(
            f"--port={port}: cannot listen on {host} ({os_reason(error)}); choose another port with --port"
        ) from None
    return listening


def is_loopback(listening: socket.socket) -> bool:
    """Returns whether only this machine can reach a socket.

    Args:
        listening: The socket that `listen` returned.
    """
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback
