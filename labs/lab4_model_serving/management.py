"""The management routes of the lab's server: weights, windows, labels, shadow, load and unload.

Each request has carried the management token when it comes here. Loading is off unless the server
was started with a store, and then it takes a name of a folder in that store, never a path or an
address: ShellTorch (CVE-2023-43654) was a server that loaded models from anywhere for anybody.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.errors import InputError
from labs.lab4_model_serving.bundle import describe
from labs.lab4_model_serving.predictor import Predictor
from labs.lab4_model_serving.protocol import HttpError
from labs.lab4_model_serving.versions import LiveModel

Reply = tuple[int, dict[str, Any]]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def is_management(path: str) -> bool:
    """Whether a path is one of these routes, and needs the management token."""
    return path == "/feedback" or path.startswith("/models/")


async def respond(model: LiveModel, method: str, path: str, body: bytes) -> Reply:
    """Answer one management request.

    ========================================  =====================================================
    ``GET /models/<name>``                    versions, weights, salt
    ``PUT /models/<name>``                    ``{"weights": {"1.0": 0.9, "2.0": 0.1}, "salt": "s"}``
    ``GET, POST /models/<name>/windows``      what was seen; begin anew: ``{"slow_ms": 50}``
    ``GET, PUT, DELETE /models/<name>/shadow``  ``{"version": "2.0", "share": 0.1}``
    ``POST /models/<name>/versions``          load: ``{"bundle": "<folder in the store>"}``
    ``DELETE /models/<name>/versions/<v>``    unload, after its last answer
    ``POST /feedback``                        ``{"request_id": "...", "label": "..."}`` or a list of
                                              them under ``"feedback"``
    ========================================  =====================================================

    Returns
    -------
    (status, content)

    Raises
    ------
    HttpError
        400 (content), 403 (loading is off), 404 (no such route, model, version or answer), 405,
        409 (it has weight, or is live already).
    """
    if path == "/feedback":
        _only(method, "POST")
        return _feedback(model, _content(body))
    _, _, name, *rest = path.split("/")
    if name != model.name:
        raise HttpError(404, f"no model {name[:50]!r}")
    try:
        match rest:
            case []:
                _only(method, "GET", "PUT")
                if method == "PUT":
                    _set_weights(model, _content(body))
                return 200, state(model)
            case ["windows"]:
                _only(method, "GET", "POST")
                if method == "POST":
                    model.windows.reset(_number(_content(body), "slow_ms") / 1000)
                return 200, _windows(model)
            case ["shadow"]:
                return await _shadow(model, method, body)
            case ["versions"]:
                _only(method, "POST")
                return await _load(model, _content(body))
            case ["versions", version] if version:
                _only(method, "DELETE")
                return await _unload(model, version)
    except InputError as error:
        raise HttpError(400, str(error)) from None
    raise HttpError(404, f"nothing is at {path[:100]!r}")


def state(model: LiveModel) -> dict[str, Any]:
    """Every live version with its weight."""
    versions = {
        version: {**describe(live.predictor.bundle), "weight": model.weights[version]}
        for version, live in model.versions.items()
    }
    return {
        "model": model.name,
        "versions": versions,
        "salt": model.salt,
        "shadow": model.shadow.version if model.shadow else None,
        "loading": model.store is not None,
    }


def _set_weights(model: LiveModel, content: Mapping[str, Any]) -> None:
    weights, salt = content.get("weights"), content.get("salt")
    if not isinstance(weights, dict) or not isinstance(salt, str | None):
        raise HttpError(400, 'expected {"weights": {"<version>": <number>}, "salt": "<text>"}')
    try:
        (salt or "").encode()  # every later choice hashes it
    except UnicodeEncodeError:
        raise HttpError(400, "the salt holds half a character (a lone surrogate)") from None
    shares = {str(version): _number(weights, version) for version in weights}
    model.set_weights(shares, salt=salt)


def _windows(model: LiveModel) -> dict[str, Any]:
    windows = {version: asdict(window) for version, window in model.windows.windows().items()}
    return {"id": model.windows.id, "slow_ms": 1000 * model.windows.slow_s, "versions": windows}


def _feedback(model: LiveModel, content: Mapping[str, Any]) -> Reply:
    single = "feedback" not in content
    given = [content] if single else content["feedback"]
    if not isinstance(given, list) or not all(
        isinstance(each, dict)
        and isinstance(each.get("request_id"), str)
        and isinstance(each.get("label"), str)
        for each in given
    ):
        raise HttpError(400, 'expected {"request_id": "...", "label": "..."}')
    counted = sum(model.windows.feedback(each["request_id"], each["label"]) for each in given)
    if single and not counted:
        raise HttpError(404, "no such answer is waiting for a label: unknown, too old, or labelled")
    return 200, {"counted": counted, "unknown": len(given) - counted}


async def _shadow(model: LiveModel, method: str, body: bytes) -> Reply:
    _only(method, "GET", "PUT", "DELETE")
    if method == "PUT":
        content = _content(body)
        await model.set_shadow(_text(content, "version"), _number(content, "share"))
    report = model.shadow.report() if model.shadow else None
    if report is None:
        raise HttpError(404, "no version is the shadow")
    if method == "DELETE":
        await model.stop_shadow()
    return 200, {**asdict(report), "agreement": report.agreement}


async def _load(model: LiveModel, content: Mapping[str, Any]) -> Reply:
    folder = _in_store(model, _text(content, "bundle"))
    # Reading, checking and warming up take a second; the loop goes on answering.
    predictor = await asyncio.to_thread(_open, model, folder)
    if predictor.bundle.name != model.name:
        raise HttpError(400, f"the bundle is of {predictor.bundle.name!r}, not of {model.name!r}")
    if predictor.version in model.versions:
        raise HttpError(409, f"{model.name} {predictor.version} is already live")
    model.add(predictor, model.settings)
    return 201, state(model)


async def _unload(model: LiveModel, version: str) -> Reply:
    _store(model)
    if version not in model.versions:
        raise HttpError(404, f"{model.name} has no version {version[:50]!r}")
    try:
        await model.remove(version)
    except InputError as error:
        raise HttpError(409, str(error)) from None
    return 200, state(model)


def _store(model: LiveModel) -> Path:
    if model.store is None:
        raise HttpError(
            403, "loading and unloading are off; start the server with --model-store FOLDER"
        )
    return model.store


def _in_store(model: LiveModel, name: str) -> Path:
    store = _store(model)
    if not NAME.fullmatch(name):
        raise HttpError(400, f"bundle {name[:50]!r} must be the name of a folder in the store")
    folder = (store / name).resolve()
    if folder.parent != store or not folder.is_dir():  # a link that leads out is not in the store
        raise HttpError(404, f"the store has no bundle {name!r}")
    return folder


def _open(model: LiveModel, folder: Path) -> Predictor:
    predictor = Predictor(folder, device=model.device, threads=model.threads)
    predictor.predict(["the first run is slow: not at a user's expense"])
    return predictor


def _only(method: str, *allowed: str) -> None:
    if method not in allowed:
        listed = ", ".join(allowed)
        raise HttpError(405, f"{method} is not allowed here, {listed} is", {"Allow": listed})


def _content(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise HttpError(400, f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(content, dict):
        raise HttpError(400, "the body must be a JSON object")
    return content


def _number(content: Mapping[str, Any], name: str) -> float:
    value = content.get(name)
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer beyond all floats, such as 10**400
        pass
    raise HttpError(400, f"{name!r} must be a number")


def _text(content: Mapping[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str):
        raise HttpError(400, f"{name!r} must be a text")
    return value
