"""Flower's deployment engine as what carries parcels: the one room that knows `flwr`.

A ServerApp gives the coordinator's part a post, a ClientApp gives each request to the site's part. What is sent,
checked and kept is not known here.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from queue import Empty, Queue
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedgmi.errors import UserError
from fedgmi.protocol.wire import Parcel, header_of
from fedgmi.protocol.words import one_line

HEADER, PAYLOAD = "header", "payload"
KIND = "train.exchange"
LOGGER = "flwr"  # Flower's, by its documentation
UNHANDLED = "An unhandled exception occurred in the ServerApp"  # which it says after any exception
POLL_S = 0.2  # between two looks for a reply, at least
LOOKS_PER_S = 10  # for all sites together: the SuperLink answers each with some milliseconds of CPU
GRACE_S = 60.0  # how much longer than the deadline a message lives
CHUNK_BYTES = 5 * 2**20  # Flower parts larger arrays itself

Settings = Mapping[str, Any]  # of a run or of a node, as Flower keeps them
Found = Queue[tuple[str, Parcel | Exception]]  # by the request's name, what came of it


def to_record(parcel: Parcel) -> RecordDict:
    """A parcel as Flower carries it: a text, and at most one tensor of bytes.

    Flower pushes and pulls each record, array and chunk as an object of its own, one request each, and those are most
    of what an exchange costs. So a payload that is one chunk goes in the text's record: three objects, not six.
    """
    header = ConfigRecord({"json": json.dumps(parcel.header)})
    record, payload = RecordDict({HEADER: header}), parcel.payload.cpu().numpy()
    if len(payload) > CHUNK_BYTES:
        record[PAYLOAD] = ArrayRecord({PAYLOAD: Array(payload)})
    elif len(payload):
        header[PAYLOAD] = payload.tobytes()
    return record


def from_record(record: RecordDict) -> Parcel:
    """The parcel of a record.

    Args:
        record: As it came.

    Returns:
        The parcel. Where the record is not one of `to_record`, its header has `error`.
    """
    try:
        text, arrays = record.config_records[HEADER], record.array_records.get(PAYLOAD)
        header = header_of(text["json"])
        inline = text.get(PAYLOAD, b"")
        if not isinstance(inline, bytes):
            raise ValueError("a payload is bytes")
        payload = np.frombuffer(inline, np.uint8) if arrays is None else arrays[PAYLOAD].numpy()  # never unpickles
        if payload.dtype != np.uint8 or payload.ndim != 1:
            raise ValueError("a payload is bytes")
    except Exception as error:  # whatever one side sends, the other goes on
        return Parcel({"error": f"this is no message of fedgmi ({type(error).__name__}: {one_line(str(error), 200)})"})
    return Parcel(header, torch.from_numpy(payload.copy()))


class GridPost:
    """A post (`fedgmi.deploy.coordinator.roster.Post`) over a Flower grid. Silence and expired messages are absence.

    Args:
        grid: Flower's.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def nodes(self) -> Iterable[int]:
        """The SuperNodes that are connected."""
        return list(self._grid.get_node_ids())

    def ask(self, requests: dict[int, Parcel], deadline_s: float) -> dict[int, Parcel]:
        """Push all, then pull each reply in a thread of its own until all are there or the deadline is over.

        A reply that is announced and never comes to its end holds up Flower's pull for minutes, and nobody else's here.

        Raises:
            OSError: Or what Flower has for it, where the SuperLink cannot be reached.
        """
        asked = [
            Message(to_record(parcel), dst_node_id=node, message_type=KIND, ttl=deadline_s + GRACE_S)
            for node, parcel in requests.items()
        ]
        names = self._grid.push_messages(asked)
        waiting = {name: node for name, node in zip(names, requests, strict=True) if name}  # None: not taken
        answers: dict[int, Parcel] = {}
        found: Found = Queue()
        over, end = threading.Event(), time.monotonic() + deadline_s
        for name, node in waiting.items():
            threading.Thread(target=self._pull, args=(name, node, waiting, found, over), daemon=True).start()
        try:
            while waiting and (left := end - time.monotonic()) > 0:
                name, answer = found.get(timeout=left)
                if isinstance(answer, Exception):
                    raise answer
                answers[waiting.pop(name)] = answer
        except Empty:
            pass
        finally:
            over.set()
        return answers

    def _pull(self, name: str, node: int, waiting: Mapping[str, int], found: Found, over: threading.Event) -> None:
        """Look for one reply until it is there. What Flower fails on is one site's answer, but for the way there."""
        try:
            while not over.is_set():
                for reply in self._grid.pull_messages([name]):
                    if _answers(reply, name, node):
                        found.put((name, _parcel(reply)))
                        return
                over.wait(max(POLL_S, len(waiting) / LOOKS_PER_S))
        except Exception as error:
            unread = Parcel({"error": f"Flower cannot read its answer ({type(error).__name__})"})
            found.put((name, error if _of_connection(error) else unread))


def _answers(reply: Message, name: str, node: int) -> bool:
    """Whether a message is the reply to a request, from the node that was asked.

    A SuperLink (1.41) hands a message that a node has made up, and that answers nothing, to whoever pulls next: so one
    site could answer in another's name. Errors are Flower's own, whoever they are of.
    """
    about = reply.metadata
    return about.reply_to_message_id == name and (reply.has_error() or about.src_node_id == node)


def _of_connection(error: Exception) -> bool:
    """Whether it is not about an answer, but about the way to the SuperLink."""
    of_the_way = type(error).__module__.partition(".")[0] in ("httpx", "httpcore", "grpc")
    return isinstance(error, OSError) or (of_the_way and type(error).__name__ != "HTTPStatusError")


def _parcel(reply: Message) -> Parcel:
    if reply.has_error():
        return Parcel({"error": f"Flower says: {reply.error.reason or f'code {reply.error.code}'}"})
    return from_record(reply.content)


def make_server_app(run: Callable[[GridPost, Settings], None]) -> ServerApp:
    """An app that runs the coordinator's part with a post and the run's configuration.

    An error that explains itself ends the run as failed, and Flower's log has its one line in place of a traceback.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            run(GridPost(grid), context.run_config)
        except UserError:
            logging.getLogger(LOGGER).addFilter(plainly)
            raise

    return app


def plainly(record: logging.LogRecord) -> bool:
    """A filter of Flower's log: an error that explains itself is one line, and what Flower says after any one goes."""
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if isinstance(error, UserError):
        record.msg, record.args, record.exc_info = "the run has failed: %s", (str(error),), None
    return UNHANDLED not in record.getMessage()


def make_client_app(answer: Callable[[Parcel, Settings], Parcel]) -> ClientApp:
    """An app that answers each request with the node's configuration at hand; `answer` does not raise."""
    app = ClientApp()

    @app.train("exchange")
    def exchange(message: Message, context: Context) -> Message:
        return Message(to_record(answer(from_record(message.content), context.node_config)), reply_to=message)

    return app
