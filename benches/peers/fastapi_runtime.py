"""A runtime server as Dari's users write it with FastAPI, for `make bench`: echoes the input and counts turns in the state."""

import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Advance(BaseModel):
    input: str
    session_id: str | None = None
    message_id: str | None = None
    state: dict[str, Any] | None = None


@app.get("/health")
async def health() -> dict[str, bool]:
    return {"ok": True}


@app.post("/runtime/advance")
async def advance(request: Advance) -> dict[str, Any]:
    turn = (request.state or {}).get("turn", 0) + 1
    return {"text": request.input, "state": {"v": 1, "turn": turn}}


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = uvicorn.Config(app, log_level="error", access_log=False)
    # Said when it is about to listen; whoever measures its start asks for /health until that answers.
    print(f"uvicorn on port {listener.getsockname()[1]} ", flush=True)
    uvicorn.Server(config).run(sockets=[listener])
