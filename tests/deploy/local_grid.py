"""A Flower grid without Flower's engine: messages go to a ClientApp in this thread."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity


class LocalGrid(Grid):
    """nodes: the configuration that each node was started with; broken: nodes whose app raises."""

    def __init__(self, app: ClientApp, nodes: Mapping[int, dict[str, Any]], broken: Iterable[int] = ()) -> None:
        self._app, self._nodes, self._broken = app, dict(nodes), set(broken)
        self._replies: dict[str, Message] = {}
        self._ids = itertools.count(1)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **more: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names = []
        for message in messages:
            name = f"message-{next(self._ids)}"
            message.metadata.__dict__["_message_id"] = name  # the SuperLink does
            self._replies[name] = self._deliver(message)
            names.append(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(name) for name in list(message_ids) if name in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        if node in self._broken:
            return Message(Error(2, "the app raised"), reply_to=message)
        context = Context(1, node, self._nodes[node], RecordDict(), {})
        return self._app(message, context)
