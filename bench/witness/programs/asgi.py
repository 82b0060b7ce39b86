"""An ASGI application for uvicorn."""
import asyncio
import json
import os
import re
import time


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    query = scope["query_string"].decode()

    def log(what):
        os.write(1, (json.dumps(dict(who="server", what=what, id=scope["path"].split("/")[-1], time=time.time(),
                              peer=scope["client"][1])) + "\n").encode())

    log("begin")
    found = re.search(r"do=([a-z]*)(\d*)", query)
    name, number = found.groups() if found else ("", "")

    async def head(status, *headers):
        await send({"type": "http.response.start", "status": status,
                    "headers": [(k.encode(), v.encode()) for k, v in headers]})

    async def write(data, more=False):
        await send({"type": "http.response.body", "body": data, "more_body": more})

    if name != "unread":
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                log("abort")
                return
            if not message.get("more_body"):
                break
    if name == "slow":
        await asyncio.sleep(int(number) / 1000)
    if name == "unread":
        await head(413, ("content-length", "0"), ("connection", "close"))
        await write(b"")
    elif name == "trunc":
        await head(200, ("content-length", "10000"))
        await write(b"t" * 3000, True)
        log("abort")
        raise RuntimeError("truncated on purpose")
    elif name == "truncchunk":
        await head(200)
        await write(b"t" * 8000, True)
        log("abort")
        raise RuntimeError("truncated on purpose")
    elif name == "big":
        await head(200)
        for _ in range(20):
            await write(b"y" * int(number or 5000), True)
            await asyncio.sleep(0.015)
        await write(b"")
    elif name == "closeme":
        await head(200, ("content-length", "4"), ("connection", "close"))
        await write(b"bye\n")
    else:
        await head(200, ("content-length", "3"))
        await write(b"ok\n")
    log("end")
