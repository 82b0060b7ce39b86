"""A WSGI application for gunicorn."""
import json
import os
import re
import time


def app(env, start):
    def log(what):
        os.write(1, (json.dumps(dict(who="server", what=what, id=env["PATH_INFO"].split("/")[-1], time=time.time(),
                              peer=int(env.get("REMOTE_PORT") or 0))) + "\n").encode())

    log("begin")
    found = re.search(r"do=([a-z]*)(\d*)", env["QUERY_STRING"])
    name, number = found.groups() if found else ("", "")
    if name == "unread":
        start("413 Content Too Large", [("Content-Length", "0"), ("Connection", "close")])
        log("end")
        return [b""]
    env["wsgi.input"].read()
    if name == "slow":
        time.sleep(int(number) / 1000)
    if name == "crash":
        os._exit(1)
    if name == "trunc":
        start("200 OK", [("Content-Length", "10000")])
        log("abort")
        return [b"t" * 3000]
    if name in ("truncchunk", "big"):
        def parts():
            if name == "truncchunk":
                yield b"t" * 8000
                log("abort")
                raise RuntimeError("truncated on purpose")
            for _ in range(20):
                yield b"y" * int(number or 5000)
                time.sleep(0.015)
            log("end")
        start("200 OK", [])
        return parts()
    headers = [("Content-Length", "3")]
    if name == "closeme":
        headers.append(("Connection", "close"))
    start("200 OK", headers)
    log("end")
    return [b"ok\n"]
