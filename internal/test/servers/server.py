"""The same application for WSGI (gunicorn) and for ASGI (uvicorn)."""
import os

DONE = os.open("done", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)


def done(method, path, query):
    target = path + ("?" + query if query else "")
    os.write(DONE, f"{method} {target}\n".encode())


def wsgi(environ, start_response):
    environ["wsgi.input"].read()
    done(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("QUERY_STRING", ""))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\n"]


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message.get("more_body", False)
    done(scope["method"], scope["path"], scope["query_string"].decode())
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
    await send({"type": "http.response.body", "body": b"ok\n"})
