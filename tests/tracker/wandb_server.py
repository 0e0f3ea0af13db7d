"""As much of a W&B server as wandb 0.31 needs to open a run and to send its rows."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VIEWER = {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}"}


class Server(ThreadingHTTPServer):
    """Keeps what it is sent in ``runs`` (variables of their creation) and ``streams``.

    Once ``lost`` is set, it accepts connections and hangs up.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs, self.streams = {}, []
        self.lose_after_first_row = self.lost = False

    def handle_error(self, request, client_address):
        """Clients hang up as they like."""

    def answer(self, path, body):
        if "graphql" not in path:
            if path.endswith("file_stream"):
                self.streams.append((path.split("/")[-2], body))
                self.lost = self.lose_after_first_row
            return {}
        query, variables = body["query"], body.get("variables") or {}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/put"} for name in variables["files"]]
            found = {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        elif "upsertBucket" in query:
            self.runs.setdefault(variables["name"], variables)
            found = {"upsertBucket": {"inserted": True, "bucket": self.describe(variables)}}
        elif "viewer" in query:
            found = {"viewer": {**VIEWER, "teams": {"edges": []}}}
        else:
            found = {"model": None} if "model(" in query else {}
        return {"data": found}

    def describe(self, variables):
        project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "me"}}
        names = {"id": "b", "name": variables["name"], "displayName": variables["displayName"]}
        return {**names, "project": project, "historyLineCount": 0}

    def rows(self, run_id):
        lines = [
            line
            for run, body in self.streams
            if run == run_id
            for line in body.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
        ]
        return [json.loads(line) for line in lines]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        payload = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.server.lost:
            return
        body = json.loads(payload) if self.command == "POST" else {}
        answer = json.dumps(self.server.answer(self.path, body)).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_POST  # noqa: N815

    def log_message(self, *_):
        """Silent."""
