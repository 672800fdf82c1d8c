"""Receives the body of a request, within limits on its size and time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mnist_sweep.results.models.serve.body_decoder import IMAGES, JSON

if TYPE_CHECKING:
    from starlette.requests import Request

# 512 × 512 numbers of three digits fit.
MOST_BYTES = 2 * 1024 * 1024
SECONDS_TO_SEND = 15.0


async def read(request: Request) -> tuple[str, bytes]:
    """Reads a request's body.

    Args:
        request: Its body is `{"image": [[…]]}` or an image file, as its content type tells.

    Returns:
        The content type, and the body.

    Raises:
        HTTPException: 400 the client went away; 408 the body took too long; 413 it is too large; 415 it is of another
            type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON and kind not in IMAGES:
        raise HTTPException(415, f"Content-Type must be {JSON}, {' or '.join(IMAGES)}")
    try:
        async with asyncio.timeout(SECONDS_TO_SEND):
            return kind, await _body(request)
    except ClientDisconnect:
        # The client does not see this answer, but no error is logged either.
        raise HTTPException(400, "the body did not arrive") from None
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {SECONDS_TO_SEND:.0f} s") from None


async def _body(request: Request) -> bytes:
    # The declared length may be missing or wrong, so the bytes are counted as they arrive.
    declared = request.headers.get("content-length", "")
    body = bytearray()
    if not declared.isdigit() or int(declared) <= MOST_BYTES:
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                break
        else:
            return bytes(body)
    raise HTTPException(413, f"the body has more than {MOST_BYTES} bytes")
