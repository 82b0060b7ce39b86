"""A client in Python: client.py requests|httpclient|aiohttp < SCRIPT."""
import asyncio
import http.client
import json
import os
import ssl
import sys
import threading
import time
import warnings

warnings.simplefilter("ignore")
mode = sys.argv[1]
script = json.load(sys.stdin)
base = script["base"]
scheme, _, authority = base.partition("://")
host, _, port = authority.partition(":")
local = threading.local()

context = None
if scheme == "https":
    context = ssl._create_unverified_context()
    if script.get("tls") == "1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2


def out(step, start, error=None, **more):
    more.update(who="client", client="python-" + mode, id=step["id"], start=start, end=time.time())
    more["ok"] = error is None and not more.get("cancelled")
    if error is not None:
        more["error"] = repr(error)
    os.write(1, (json.dumps(more) + "\n").encode())


class Pieces:
    """A body that is sent piece by piece, and whose length is known."""

    def __init__(self, step):
        self.step = step

    def __len__(self):
        return self.step["body"]

    def __iter__(self):
        for _ in range(self.step["pieces"]):
            yield b"x" * (self.step["body"] // self.step["pieces"])
            time.sleep(self.step["piece_pause"])


def body(step):
    if step.get("pieces"):
        return Pieces(step)
    if step.get("body"):
        return b"x" * step["body"]
    return b"" if step["method"] == "POST" else None


def headers(step):
    h = {}
    if step.get("pieces"):
        h["Content-Length"] = str(step["body"])
    if step.get("close"):
        h["Connection"] = "close"
    return h


# Both http.client and urllib3 connect, and send, through http.client's class.
# A thread of this program uses one connection at a time.
plain_putrequest = http.client.HTTPConnection.putrequest


def putrequest(self, method, url, *args, **kwargs):
    if self.sock is None:
        self.connect()
    local.ports = getattr(local, "ports", []) + [self.sock.getsockname()[1]]
    return plain_putrequest(self, method, url, *args, **kwargs)


http.client.HTTPConnection.putrequest = putrequest


def by_httpclient(steps):
    conn = None
    for step in steps:
        time.sleep(step.get("pause", 0))
        start, local.ports = time.time(), []
        try:
            if conn is None:
                if context:
                    conn = http.client.HTTPSConnection(host, int(port), context=context)
                else:
                    conn = http.client.HTTPConnection(host, int(port))
            conn.timeout = step.get("timeout") or 20
            if conn.sock:
                conn.sock.settimeout(conn.timeout)
            conn.request(step["method"], step["target"], body(step), headers(step))
            response = conn.getresponse()
            if step.get("read_only"):
                n = len(response.read(step["read_only"]))
                response.close()
                conn.close()
                conn = None
                out(step, start, status=response.status, bytes=n, cancelled=True, ports=local.ports)
                continue
            n = len(response.read())
            out(step, start, status=response.status, bytes=n, ports=local.ports)
        except Exception as e:
            out(step, start, e, ports=local.ports)
            if conn is not None:
                conn.close()
            conn = None
    time.sleep(script["linger"])


def by_requests(steps):
    import requests
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args, **kwargs):
            super().init_poolmanager(*args, ssl_context=context, assert_hostname=False, **kwargs)

    session = requests.Session()
    session.trust_env = False
    if context:
        context.check_hostname = False
        session.mount("https://", Adapter())
    for step in steps:
        time.sleep(step.get("pause", 0))
        start, local.ports = time.time(), []
        try:
            response = session.request(
                step["method"], base + step["target"], data=body(step), headers=headers(step), verify=False,
                timeout=step.get("timeout") or 20, stream=bool(step.get("read_only")))
            if step.get("read_only"):
                n = len(next(response.iter_content(step["read_only"])))
                response.close()
                out(step, start, status=response.status_code, bytes=n, cancelled=True, ports=local.ports)
                continue
            out(step, start, status=response.status_code, bytes=len(response.content), ports=local.ports)
        except Exception as e:
            out(step, start, e, ports=local.ports)
    time.sleep(script["linger"])


async def by_aiohttp():
    import aiohttp

    async def one(steps):
        connector = aiohttp.TCPConnector(limit=1, keepalive_timeout=60, ssl=context)
        async with aiohttp.ClientSession(connector=connector) as session:
            for step in steps:
                await asyncio.sleep(step.get("pause", 0))
                start = time.time()
                try:
                    data = body(step)
                    if step.get("pieces"):
                        data = slowly(step)
                    async with session.request(
                            step["method"], base + step["target"], data=data, headers=headers(step),
                            timeout=aiohttp.ClientTimeout(total=step.get("timeout") or 20)) as response:
                        if step.get("read_only"):
                            n = len(await response.content.read(step["read_only"]))
                            response.close()
                            out(step, start, status=response.status, bytes=n, cancelled=True)
                            continue
                        out(step, start, status=response.status, bytes=len(await response.read()))
                except Exception as e:
                    out(step, start, e)
            await asyncio.sleep(script["linger"])

    await asyncio.gather(*[one(steps) for steps in script["conns"]])


async def slowly(step):
    for _ in range(step["pieces"]):
        yield b"x" * (step["body"] // step["pieces"])
        await asyncio.sleep(step["piece_pause"])


if mode == "aiohttp":
    asyncio.run(by_aiohttp())
else:
    run = {"httpclient": by_httpclient, "requests": by_requests}[mode]
    threads = [threading.Thread(target=run, args=(steps,)) for steps in script["conns"]]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
