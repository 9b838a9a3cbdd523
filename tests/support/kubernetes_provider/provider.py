"""The provider: Pulumi's engine asks, the API server does."""

from __future__ import annotations

import importlib.metadata
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf import empty_pb2, struct_pb2
from google.rpc import status_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc

from tests.support.kubernetes_provider import readiness
from tests.support.kubernetes_provider.api import Api, Object, RefusedError

VERSION = importlib.metadata.version("pulumi-kubernetes")
"""Of the SDK: the engine compares it with what programs ask for."""
_UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
_MANAGER = "pulumi-kubernetes"
_PATIENCE_S = 300.0
_POLL_S = 0.2
# what an object cannot have changed: it goes, and another one comes
_FIXED = {
    "": ["apiVersion", "kind", "metadata.name", "metadata.namespace"],
    "RoleBinding": ["roleRef"],
    "ClusterRoleBinding": ["roleRef"],
    "PriorityClass": ["value", "preemptionPolicy"],
    "StorageClass": ["provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"],
    "PersistentVolume": ["spec.local", "spec.nodeAffinity", "spec.storageClassName", "spec.volumeMode"],
    "PersistentVolumeClaim": ["spec.storageClassName", "spec.accessModes", "spec.volumeName", "spec.volumeMode"],
    "Deployment": ["spec.selector"],
    "StatefulSet": ["spec.selector", "spec.serviceName", "spec.volumeClaimTemplates"],
    "Job": ["spec.selector", "spec.template"],
    "Pod": ["spec"],
    "Secret": ["type"],
}


class Provider(provider_pb2_grpc.ResourceProviderServicer):
    """Answers the engine."""

    def __init__(self) -> None:
        self._api: Api | None = None
        self._upsert = self._force = False
        self._cancelled = threading.Event()

    # --- the plugin itself

    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        return plugin_pb2.PluginInfo(version=VERSION)

    def Cancel(self, request: Any, context: Any) -> Any:
        self._cancelled.set()
        return empty_pb2.Empty()

    def CheckConfig(self, request: Any, context: Any) -> Any:
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(self, request: Any, context: Any) -> Any:
        return _difference(_plain(request.old_inputs or request.olds), _plain(request.news), [])

    def Configure(self, request: Any, context: Any) -> Any:
        given = _plain(request.args)
        self._upsert, self._force = _true(given, "upsertExistingObjects"), _true(given, "enablePatchForce")
        try:
            self._api = Api(given.get("kubeconfig", ""), given.get("context", ""))
        except (OSError, KeyError, TypeError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the kubeconfig cannot be used: {error}")
        return provider_pb2.ConfigureResponse(acceptSecrets=False, supportsPreview=True, acceptResources=False)

    @property
    def api(self) -> Api:
        assert self._api, "the engine configures first"
        return self._api

    # --- objects

    def Check(self, request: Any, context: Any) -> Any:
        wanted = _plain(request.news)
        failures = [
            provider_pb2.CheckFailure(property=".".join(path), reason="an object needs it")
            for path in (("apiVersion",), ("kind",), ("metadata", "name"))
            if not _at(wanted, path)
        ]
        return provider_pb2.CheckResponse(inputs=request.news, failures=failures)

    def Diff(self, request: Any, context: Any) -> Any:
        old, new = _plain(request.old_inputs), _plain(request.news)
        return _difference(old, new, [*_FIXED[""], *_FIXED.get(new.get("kind", ""), [])])

    def Create(self, request: Any, context: Any) -> Any:
        wanted = _plain(request.properties)
        if request.preview:
            return provider_pb2.CreateResponse(properties=_struct(self._foreseen(wanted, context)))
        with _told(context):
            if not self._upsert and self.api.get(wanted) is not None:
                raise RefusedError(409, f"{_id(wanted)} already exists")
            live = self.api.apply(wanted, manager=_MANAGER, force=self._is_forced(wanted), dry=False)
        live = self._awaited(live, wanted, request.timeout, context)
        return provider_pb2.CreateResponse(id=_id(wanted), properties=_struct(_shown(live)))

    def Update(self, request: Any, context: Any) -> Any:
        wanted = _plain(request.news)
        if request.preview:
            return provider_pb2.UpdateResponse(properties=_struct(self._foreseen(wanted, context)))
        with _told(context):
            live = self.api.apply(wanted, manager=_MANAGER, force=self._is_forced(wanted), dry=False)
        live = self._awaited(live, wanted, request.timeout, context)
        return provider_pb2.UpdateResponse(properties=_struct(_shown(live)))

    def Read(self, request: Any, context: Any) -> Any:
        inputs, known = _plain(request.inputs), _plain(request.properties)
        with _told(context):
            live = self.api.get(inputs or known)
        if live is None:
            return provider_pb2.ReadResponse(id="")
        found = _pruned(live, inputs)
        return provider_pb2.ReadResponse(id=request.id, properties=_struct(_shown(live)), inputs=_struct(found))

    def Delete(self, request: Any, context: Any) -> Any:
        gone = _plain(request.properties)
        with _told(context):
            try:
                self.api.delete(gone)
                self._until(lambda: self.api.get(gone) is None, request.timeout)
            except TimeoutError as error:
                raise RefusedError(0, f"{_id(gone)} is still there") from error
        return empty_pb2.Empty()

    # --- how

    def _is_forced(self, wanted: Object) -> bool:
        annotations = _at(wanted, ("metadata", "annotations")) or {}
        return self._force or annotations.get("pulumi.com/patchForce") == "true"

    def _foreseen(self, wanted: Object, context: Any) -> Object:
        """Return an object as the API server would make it; as it is asked for where it cannot tell yet."""
        if _has_unknown(wanted):
            return wanted
        try:
            return _shown(self.api.apply(wanted, manager=_MANAGER, force=self._is_forced(wanted), dry=True))
        except RefusedError as refused:
            # its namespace or its kind is to be made by the same run
            if refused.status != 404:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(refused))
            return wanted

    def _awaited(self, live: Object, wanted: Object, timeout: float, context: Any) -> Object:
        annotations = _at(wanted, ("metadata", "annotations")) or {}
        if annotations.get("pulumi.com/skipAwait") == "true":
            return live
        latest = [live]

        def ready() -> bool:
            latest[0] = self.api.get(wanted) or latest[0]
            return not readiness.waits_for(latest[0]) or readiness.cannot_be(latest[0])

        late = ""
        try:
            if readiness.waits_for(live):
                self._until(ready, timeout)
        except TimeoutError as error:
            late = f" ({error})"
        if reason := readiness.waits_for(latest[0]):
            _abort_half_made(context, latest[0], wanted, f"{_id(wanted)} was made and is not ready: {reason}{late}")
        return latest[0]

    def _until(self, done: Callable[[], bool], timeout: float) -> None:
        end = time.monotonic() + (timeout or _PATIENCE_S)
        while not done():
            if self._cancelled.wait(_POLL_S):
                raise TimeoutError("cancelled")
            if time.monotonic() > end:
                raise TimeoutError("it took too long")


@contextmanager
def _told(context: Any) -> Iterator[None]:
    """Tell the engine what the API server said."""
    try:
        yield
    except RefusedError as refused:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(refused))


def _abort_half_made(context: Any, live: Object, inputs: Object, message: str) -> None:
    """End a call whose object exists: the engine keeps it, and deals with it the next time."""
    details = provider_pb2.ErrorResourceInitFailed(
        id=_id(inputs), properties=_struct(_shown(live)), reasons=[message], inputs=_struct(inputs)
    )
    status = status_pb2.Status(code=grpc.StatusCode.INTERNAL.value[0], message=message)
    status.details.add().Pack(details)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.INTERNAL, message)


def _difference(old: Object, new: Object, fixed: list[str]) -> Any:
    changed = sorted(set(_paths(old, new)))
    replaces = [path for path in changed if any(path == f or path.startswith((f"{f}.", f"{f}[")) for f in fixed)]
    kinds = provider_pb2.PropertyDiff
    detailed = {
        path: kinds(kind=kinds.UPDATE_REPLACE if path in replaces else kinds.UPDATE, inputDiff=True) for path in changed
    }
    return provider_pb2.DiffResponse(
        changes=provider_pb2.DiffResponse.DIFF_SOME if changed else provider_pb2.DiffResponse.DIFF_NONE,
        replaces=replaces,
        diffs=sorted({path.split(".")[0].split("[")[0] for path in changed}),
        detailedDiff=detailed,
        hasDetailedDiff=bool(changed),
        # an object's name is fixed, so two cannot be there at once
        deleteBeforeReplace=bool(replaces),
    )


def _paths(old: Any, new: Any, above: str = "") -> Iterator[str]:
    """Return where two values differ, as Pulumi writes property paths."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            if key not in old or key not in new:
                yield _path(above, key)
            else:
                yield from _paths(old[key], new[key], _path(above, key))
    elif old != new:
        yield above


def _path(above: str, key: str) -> str:
    if "." in key or "/" in key:
        return f'{above}["{key}"]'
    return f"{above}.{key}" if above else key


def _pruned(live: Any, asked: Any) -> Any:
    """Return of a live object what was asked for, as it is now; all of it when nothing is known of that."""
    if isinstance(live, dict) and isinstance(asked, dict):
        return {key: _pruned(live[key], value) for key, value in asked.items() if key in live}
    if isinstance(live, list) and isinstance(asked, list) and len(live) == len(asked):
        return [_pruned(one, other) for one, other in zip(live, asked, strict=True)]
    return live


def _shown(live: Object) -> Object:
    metadata = {key: value for key, value in live["metadata"].items() if key != "managedFields"}
    return {**live, "metadata": metadata}


def _id(of: Object) -> str:
    metadata = of["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}" if metadata.get("namespace") else str(metadata["name"])


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _true(given: Object, key: str) -> bool:
    return str(given.get(key, "")).lower() == "true"


def _has_unknown(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_unknown, value.values()))
    if isinstance(value, list):
        return any(map(_has_unknown, value))
    return bool(value == _UNKNOWN)


def _plain(struct: Any) -> Object:
    """Return a message as Python's values; what has no fraction is a whole number, as Kubernetes wants it."""
    return {key: _value(value) for key, value in struct.fields.items() if not key.startswith("__")}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _plain(value.struct_value)
    if kind == "list_value":
        return [_value(one) for one in value.list_value.values]
    if kind == "number_value":
        return int(value.number_value) if value.number_value.is_integer() else value.number_value
    return None if kind == "null_value" else getattr(value, kind)


def _struct(value: Object) -> Any:
    made = struct_pb2.Struct()
    made.update(value)
    return made
