"""Ports to listen on."""

from __future__ import annotations

import ipaddress
import socket

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import first_line

# Addresses that stand for all of a machine's.
EVERYWHERE = ("0.0.0.0", "::")


def in_url(host: str) -> str:
    """An address as links have it.

    Args:
        host: The address that is listened on.
    """
    return "localhost" if host in EVERYWHERE else f"[{host}]" if ":" in host else host


def listen(host: str, port: int) -> socket.socket:
    """Takes a port.

    Args:
        host: The address to listen on.
        port: The port; 0 for any that is free.

    Returns:
        A socket that listens on it: whoever calls before there is a server waits.

    Raises:
        UserError: The port is taken, or there is no such address here.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port={port}: ports go from 0 to 65535")
    if not host:
        raise UserError("--host: is empty; name an address, 127.0.0.1 say")
    taken = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
        # Two may bind the same port, as long as neither listens.
        taken.listen()
    except (socket.gaierror, TypeError, UnicodeError) as error:
        taken.close()
        raise UserError(f"--host={host}: is not an address of this machine ({first_line(error)})") from None
    except OSError as error:
        taken.close()
        raise UserError(
            f"--port={port}: cannot listen on {host} ({error.strerror}); take another with --port"
        ) from None
    return taken


def is_loopback(listening: socket.socket) -> bool:
    """Whether this machine alone can reach a socket.

    Args:
        listening: What `listen` gave.
    """
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback
