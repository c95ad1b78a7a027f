"""A judge on the loopback that answers as it is told."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def judging(reply):
    """Yields the url and the requests so far; `reply(number)` gives a text, a status, or seconds to wait (a float)."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            said = reply(len(requests))
            if isinstance(said, float):
                time.sleep(said)
            status = said if isinstance(said, int) else 200
            content = json.dumps({"choices": [{"message": {"content": said}}]} if status == 200 else {"error": "no"})
            try:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(content.encode())
            except BrokenPipeError:
                pass  # it did not wait

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
