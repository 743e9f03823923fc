"""A SuperNode's runtime API without a SuperLink: Flower's own, over HTTP on this machine, fed by hand."""

from __future__ import annotations

import hashlib
import io
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from flwr.app import Context, Message, RecordDict
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, iterate_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory
from flwr.supernode.start_client_internal import _insert_message

from fedgmi.deploy.flower import KIND, from_record, to_record
from fedgmi.deploy.site.serve import free_port
from fedgmi.protocol.wire import Parcel

RUN, NODE = 7, 11


def fab_that(program: str) -> Fab:
    """An app whose client_app.py is the program."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("client_app.py", program)
        archive.writestr("pyproject.toml", '[tool.flwr.app.components]\nclientapp = "client_app:app"\n')
    return Fab(hashlib.sha256(packed.getvalue()).hexdigest(), packed.getvalue(), {})


class LocalSuperNode:
    """What a SuperNode does for its executors, of one run."""

    def __init__(self, fab: Fab) -> None:
        self.store = ObjectStoreFactory()
        self.states = NodeStateFactory(objectstore_factory=self.store)
        self.state = self.states.state()
        self.state.set_node_id(NODE)
        run = {"run_id": RUN, "fab_id": "a/b", "fab_version": "1", "fab_hash": fab.hash_str, "series_id": RUN}
        self.run = Run.create_empty(RUN)
        for name, value in run.items():
            setattr(self.run, name, value)
        self.state.store_run(self.run)
        self.state.store_fab(fab)
        self.state.set_run_series_context(RUN, Context(RUN, NODE, {"site": "elsewhere"}, RecordDict(), {}))
        self.number = 0

    def give(self, parcel: Parcel, kind: str = KIND, task: str = TaskType.CLIENT_APP) -> None:
        """A message from the coordinator, as a task."""
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, 0, 1
        self.number += 1
        assert self.state.create_task(task_type=task, run_id=RUN, fab_hash=self.run.fab_hash) is not None
        message = Message(to_record(parcel), dst_node_id=NODE, message_type=kind, group_id=str(self.number))
        _insert_message(message, self.state, self.store.store())

    def replies(self) -> list[Any]:
        """Flower's answers so far: parcels, or errors."""
        found: list[Any] = []
        for about in self.state.get_messages_legacy(is_reply=True):
            if about.has_error():
                found.append(about.error)
                continue
            name = about.metadata.message_id
            store = self.store.store()
            parts = [tree.object_id for tree in iterate_object_tree(store.get_object_tree(name))]
            contents = {part: store.get(part) for part in parts}
            message = inflate_object_from_contents(name, contents)
            found.append(from_record(message.content))
        return found


@contextmanager
def listening(node: LocalSuperNode, secret: bytes) -> Iterator[str]:
    """Its address while it listens."""
    port = free_port()
    settings = uvicorn.Config(create_app(node.states, secret), "127.0.0.1", port, log_level="error", ws="none")
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
