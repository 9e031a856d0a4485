"""A server of one tool, `name`, that tells what its environment calls WORD. MCP over stdio: one JSON object per line."""

import json
import os
import sys

TOOL = {"name": "name", "description": "Names it.", "inputSchema": {"type": "object", "properties": {}}}


def answer(request):
    method = request["method"]
    if method == "initialize":
        version = request["params"]["protocolVersion"]
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": {"name": "fruit", "version": "1"}}
    if method == "tools/list":
        return {"tools": [TOOL]}
    if method == "tools/call":
        return {"content": [{"type": "text", "text": os.environ["WORD"]}]}
    return {}


for line in sys.stdin:
    request = json.loads(line)
    if "id" in request:
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": answer(request)}), flush=True)
