"""As much of a W&B server as wandb 0.31 needs to open, continue and upload runs.

How it treats rows is what W&B's client expects of the real one: they have line numbers, and what is
sent for a line replaces what was there.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WELL_FORMED_KEY = "0123456789abcdef" * 3
PROJECT = {"id": "p", "name": "kdbench", "entityName": "me", "internalId": "i"}
VIEWER = {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}"}


class Server(ThreadingHTTPServer):
    """Keeps what runs were created with, their ``lines`` (rows), saved ``views`` and ``tables``.

    Once somebody has asked for ``/lose``, it accepts connections and hangs up.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs, self.lines, self.views, self.tables = {}, {}, [], []
        self.lost = False

    def handle_error(self, request, client_address):
        """Clients hang up as they like."""

    def answer(self, path, body):
        if "graphql" not in path:
            if path.endswith("file_stream"):
                self.keep(path.split("/")[-2], body.get("files", {}).get("wandb-history.jsonl"))
            self.lost = path == "/lose"
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
        elif "RunResumeStatus" in query:
            found = {"model": self.resume_status(variables)}
        elif "GetProjects" in query:
            page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
            node = {**PROJECT, "__typename": "Project", "createdAt": "", "isBenchmark": False}
            found = {"models": {"pageInfo": page, "edges": [{"node": {**node, "user": None}}]}}
        elif "query ArtifactType" in query:
            found = {"project": None}
        elif "mutation CreateArtifact (" in query:
            self.tables.append(str(variables["input"]))
            made = {"id": "a", "state": "COMMITTED", "artifactSequence": {"latestArtifact": None}}
            found = {"createArtifact": {"artifact": made}}
        elif "ProjectInternalId" in query:
            found = {"project": PROJECT}
        elif "upsertView" in query:
            self.views.append(variables)
            view = {"project": PROJECT, **variables, "id": "v"}
            found = {"upsertView": {"inserted": True, "view": view}}
        else:
            found = {"model": None} if "model(" in query else {}
        return {"data": found}

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def keep(self, run_id, history):
        if history is not None:
            lines = self.lines.setdefault(run_id, [])
            begin, content = history["offset"], history["content"]
            lines[begin : begin + len(content)] = content

    def resume_status(self, variables):
        name = variables["name"]
        if name not in self.runs:
            return None
        lines = self.lines.get(name, [])
        bucket = {"id": "b", "name": name, "displayName": "", "config": "{}", "notes": ""}
        bucket |= {"summaryMetrics": lines[-1] if lines else "{}", "tags": []}
        bucket |= {"historyLineCount": len(lines), "eventsLineCount": 0, "logLineCount": 0}
        bucket |= {"historyTail": json.dumps(lines[-1:]), "eventsTail": "[]"}
        bucket |= {"wandbConfig": '{"t": {"1": [1]}}'}
        return {"id": "p", "name": "p", "entity": {"id": "e", "name": "me"}, "bucket": bucket}

    def describe(self, variables):
        project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "me"}}
        names = {"id": "b", "name": variables["name"], "displayName": variables["displayName"]}
        return {**names, "project": project, "historyLineCount": 0}

    def curve(self, run_id):
        rows = [json.loads(line) for line in self.lines[run_id]]
        return [(row["epoch"], row["train/loss"]) for row in rows if "train/loss" in row]


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
