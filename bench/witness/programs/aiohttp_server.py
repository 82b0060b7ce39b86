"""A server with aiohttp: aiohttp_server.py ADDRESS PORT IDLE-SECONDS [CERT KEY]."""
import asyncio
import json
import os
import re
import ssl
import sys
import time

from aiohttp import web

host, port, idle = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])


def log(what, request):
    peer = request.transport and request.transport.get_extra_info("peername")
    os.write(1, (json.dumps(dict(who="server", what=what, id=request.path.split("/")[-1], time=time.time(),
                          peer=peer and peer[1])) + "\n").encode())


async def handle(request):
    log("begin", request)
    try:
        response = await act(request)
    except BaseException:
        log("abort", request)
        raise
    log("end", request)
    return response


async def act(request):
    name, number = re.fullmatch(r"([a-z]*)(\d*)", request.query.get("do", "")).groups()
    if name == "unread":
        return web.Response(status=413, headers={"Connection": "close"})
    if name == "unreadclose":
        request.transport.close()
        await asyncio.sleep(0.1)
        return web.Response()
    await request.read()
    if name == "slow":
        await asyncio.sleep(int(number) / 1000)
    if name == "crash":
        request.transport.close()
        await asyncio.sleep(0.1)
    if name in ("trunc", "truncchunk"):
        response = web.StreamResponse()
        if name == "trunc":
            response.content_length = 10000
        await response.prepare(request)
        await response.write(b"t" * 3000)
        await asyncio.sleep(0.02)
        request.transport.close()
        return response
    if name == "big":
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(20):
            await response.write(b"y" * int(number or 5000))
            await asyncio.sleep(0.015)
        await response.write_eof()
        return response
    response = web.Response(text="ok\n")
    if name == "closeme":
        response.force_close()
    return response


app = web.Application(client_max_size=1 << 30)
app.router.add_route("*", "/{rest:.*}", handle)
context = None
if len(sys.argv) > 5:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(sys.argv[4], sys.argv[5])
web.run_app(app, host=host, port=port, keepalive_timeout=idle, ssl_context=context, print=None)
