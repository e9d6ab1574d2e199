# SPDX-License-Identifier: Apache-2.0
"""The same verbs for agents: the Model Context Protocol over POST /mcp (JSON-RPC 2.0, revision 2025-06-18). A tool
calls the handler that REST calls, so that checks, owners and limits are the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from dreamlab import __version__
from dreamlab.core.errors import DreamError
from dreamlab.core.files import Json
from dreamlab.core.settings import setting
from dreamlab.core.text import printable
from dreamlab.jobs.asking import bind
from dreamlab.jobs.requests import DreamRequest
from dreamlab.jobs.states import STATES
from dreamlab.studio.answers import Refusal, Reply, refused
from dreamlab.studio.api import acts, jobs
from dreamlab.studio.api.base import Call, Endpoint
from dreamlab.studio.schema import schema_of

REVISIONS = ("2025-06-18", "2025-03-26", "2024-11-05")
PARSE, INVALID, NO_METHOD, BAD_PARAMS = -32700, -32600, -32601, -32602


@dataclass(frozen=True)
class OneJob:
    """A job."""

    id: str = setting(help="of the job, as submit gave it")


@dataclass(frozen=True)
class CancelJob(OneJob):
    """A job to stop."""

    keep: bool = setting(False, help="export what there is by then")


@dataclass(frozen=True)
class ListJobs:
    """Which jobs."""

    state: str = setting("", choices=("", *STATES), help="only these")
    q: str = setting("", help="words of the prompt")
    limit: int = setting(20, low=1, high=100)
    cursor: str = setting("", help="`next` of the page before")


@dataclass(frozen=True)
class Tool:
    """What an agent may call."""

    about: str
    form: type
    act: Callable[[Call, Json], Reply]


def _submit(call: Call, given: Json) -> Reply:
    return jobs.submit(replace(call, body={"kind": "dream", **given}))


def _status(call: Call, given: Json) -> Reply:
    return jobs.job(replace(call, path={"id": bind(OneJob, given).id}))


def _cancel(call: Call, given: Json) -> Reply:
    asked = bind(CancelJob, given)
    return acts.cancel(replace(call, path={"id": asked.id}, body=acts.CancelRequest(asked.keep)))


def _list(call: Call, given: Json) -> Reply:
    asked = bind(ListJobs, given)
    states = (asked.state,) if asked.state else ()
    query = jobs.JobsQuery(state=states, q=asked.q, limit=asked.limit, cursor=asked.cursor)
    return jobs.jobs(replace(call, query=query))


def _files(call: Call, given: Json) -> Reply:
    view = jobs.shown(call, replace(call, path={"id": bind(OneJob, given).id}).job())
    return Reply({"id": view["id"], "state": view["state"], "folder": view["folder"], "files": view["artifacts"]})


TOOLS: Mapping[str, Tool] = {
    "submit": Tool(
        "Make a 3D asset of a prompt; returns the job, which takes a while: ask status", DreamRequest, _submit
    ),
    "status": Tool("How a job stands: state, progress, error, files", OneJob, _status),
    "list": Tool("Jobs, the newest first", ListJobs, _list),
    "cancel": Tool("Stop a job; what it has made is kept", CancelJob, _cancel),
    "files": Tool("What a job has made, with the addresses to download", OneJob, _files),
}


def mcp(call: Call) -> Reply:
    """One message of JSON-RPC."""
    assert isinstance(call.body, dict)
    message: Json = call.body
    identity, method = message.get("id"), message.get("method")
    if message.get("jsonrpc") != "2.0" or not isinstance(method, str):
        return _failed(None, INVALID, "this is no JSON-RPC 2.0 request")
    if "id" not in message:  # a notification, which nobody answers
        return Reply(b"", 202)
    params = message.get("params", {})
    if not isinstance(params, dict) or not isinstance(identity, str | int | float) or isinstance(identity, bool):
        return _failed(None, INVALID, "id must be a text or a number, params an object")
    if method == "initialize":
        return _said(identity, _hello(params))
    if method == "ping":
        return _said(identity, {})
    if method == "tools/list":
        return _said(identity, {"tools": [_described(name, tool) for name, tool in TOOLS.items()]})
    if method == "tools/call":
        return _called(call, identity, params)
    return _failed(identity, NO_METHOD, f"{printable(method)[:80]} is no method here")


def _hello(params: Json) -> Json:
    wanted = params.get("protocolVersion")
    about = "Submit a prompt, ask for its status until it has ended, then list its files."
    return {
        "protocolVersion": wanted if wanted in REVISIONS else REVISIONS[0],
        "capabilities": {"tools": {"listChanged": False}},
        "serverInfo": {"name": "dreamlab", "version": __version__},
        "instructions": about,
    }


def _described(name: str, tool: Tool) -> Json:
    known: dict[str, Json] = {}
    schema_of(tool.form, known)
    return {"name": name, "description": tool.about, "inputSchema": known[tool.form.__name__]}


def _called(call: Call, identity: object, params: Json) -> Reply:
    name, given = params.get("name"), params.get("arguments", {})
    if not isinstance(name, str) or name not in TOOLS:
        return _failed(identity, BAD_PARAMS, f"no tool is called so; there are {', '.join(TOOLS)}")
    if not isinstance(given, dict):
        return _failed(identity, BAD_PARAMS, "arguments must be an object")
    try:
        reply, wrong = TOOLS[name].act(call, given), False
    except Refusal as refusal:
        reply, wrong = refusal.reply(), True
    except DreamError as error:
        reply, wrong = refused(error).reply(), True
    text = reply.data().decode()
    told: Json = {"content": [{"type": "text", "text": text}], "isError": wrong}
    return _said(identity, told | {"structuredContent": json.loads(text)})


def _said(identity: object, result: Json) -> Reply:
    return Reply({"jsonrpc": "2.0", "id": identity, "result": result})


def _failed(identity: object, code: int, message: str) -> Reply:
    return Reply({"jsonrpc": "2.0", "id": identity, "error": {"code": code, "message": message}})


ABOUT = "The Model Context Protocol: submit, status, list, cancel, files"
ENDPOINTS = (Endpoint("POST", "/mcp", mcp, ABOUT, body=dict, refuses=(415, 422)),)
