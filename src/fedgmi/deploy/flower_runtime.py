"""Flower's runtime API as a site's own executor uses it: the one file with names that Flower does not document.

A SuperNode that was started with `--isolation process` keeps every message as a task until an executor acquires it.
Flower's own executor starts a process for each and runs the app that came with it. This one stays, answers by the
function that it was given, and never unpacks the app that was sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import httpx
from flwr.app import Context, Error, Message

from fedgmi.errors import UserError

OLDEST, NEWEST = (1, 41), (1, 42)
WHERE = "fedgmi site serve"
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 1.0  # between two tries to pull a part of a message that is still on its way
PUSHES, PUSH_AGAIN_S = 3, 1.0  # tries to hand over an answer where the connection breaks, as where the machine slept
RAISED = 2  # Flower's code for an app that raises


class Away(Exception):
    """The SuperNode does not answer, or turns this executor away. It may be back later."""


def check_version(found: str | None = None) -> str:
    """Refuse a Flower whose runtime API nobody has tried this with.

    Args:
        found: Its version. None: that of the installed one.

    Returns:
        The version.

    Raises:
        UserError: There is none, it is an older or a newer one, or it lacks a name that is used here.
    """
    expected = " to ".join(".".join(map(str, limit)) for limit in (OLDEST, NEWEST))
    fix = "pip install 'fedgmi[flower]' -c constraints.txt"
    if found is None:
        try:
            found = version("flwr")
        except PackageNotFoundError as error:
            raise UserError("Flower is not installed", where=WHERE, fix=fix) from error
        try:
            _names()
        except ImportError as error:
            what = f"flwr {found} lacks what a site's own executor needs ({error})"
            raise UserError(what, where=WHERE, fix=fix) from error
    numbers = found.split(".")[:2]
    if not all(number.isdigit() for number in numbers) or not OLDEST <= tuple(map(int, numbers)) <= NEWEST:
        raise UserError(f"flwr {found} is installed, expected {expected}", where=WHERE, fix=fix)
    return found


@dataclass(frozen=True)
class Answered:
    """What a task was like.

    Attributes:
        error: Why the answer is an error, one line; "" where it is none.
        seconds: From acquiring it until its reply was handed over.
        cpu_s: Of this process, likewise.
        stuck: Whether the SuperNode may have a part of the answer. It would wait for the rest for ever.
    """

    error: str
    seconds: float
    cpu_s: float
    stuck: bool = False


@dataclass(frozen=True)
class Executor:
    """Acquires tasks of a SuperNode on this machine, one at a time.

    Attributes:
        address: HOST:PORT of the SuperNode's runtime API. It is not encrypted and has to be on this machine.
        secret: What the SuperNode was given with `--superexec-auth-secret-file`.
        app: Flower's ClientApp, or what is called like one: (message, context) → reply.
    """

    address: str
    secret: bytes
    app: Callable[[Message, Context], Message]

    def once(self) -> Answered | None:
        """Acquire a task and answer it.

        Returns:
            What it was like; None where there was none.

        Raises:
            Away: The SuperNode does not answer.
        """
        use, began, cpu = _names(), time.monotonic(), time.process_time()
        types = [use.TaskType.CLIENT_APP, use.TaskType.AGENT_APP]  # one that nobody takes would block the SuperNode
        try:
            with self._client() as client:
                found = client.AcquireTask(use.AcquireTaskRequest(supported_task_types=types))
        except (httpx.HTTPError, ValueError) as error:  # the latter: what answers there is no SuperNode
            raise Away(_kind(error)) from error
        if not (found.HasField("task") and found.token):
            return None
        problem, stuck = self._work(found.token)
        return Answered(problem, time.monotonic() - began, time.process_time() - cpu, stuck)

    def _work(self, token: str) -> tuple[str, bool]:
        """Pull, answer, push → what is wrong, and whether the SuperNode is stuck.

        A task whose message cannot be had is left to expire, which Flower tells as an error.
        """
        with self._client(token) as client, _beating(client):
            try:
                message, context = _pull(client)
            except Exception as error:
                return f"a task could not be read: {_kind(error)}", False
            reply, problem = self._reply(message, context)
            refused, stuck = _hand_over(client, reply, context)
        return refused or problem, stuck

    def _reply(self, message: Message, context: Context) -> tuple[Message, str]:
        """The app's answer, or that it failed. What failed may quote rows: no more than its kind is told."""
        try:
            return self.app(message, context), ""
        except Exception as error:
            return Message(Error(RAISED, type(error).__name__), reply_to=message), _kind(error)

    def _client(self, token: str = "") -> Any:
        """A connection: with a task's token to work at it, without one to acquire tasks."""
        use = _names()
        who = "flwr-clientapp" if token else "SuperExec"
        signed = use.SuperExecAuthHttpInterceptor(
            master_secret=self.secret, protected_methods={"/flwr.proto.Runtime/AcquireTask"}
        )
        return use.RuntimeHttpClient.from_server_address(
            server_address=self.address,
            insecure=True,
            root_certificates=None,
            interceptors=[
                use.RuntimeVersionHttpInterceptor(component_name=who),
                use.RuntimeTokenHttpInterceptor(token) if token else signed,
            ],
        )


def _pull(client: Any) -> tuple[Message, Context]:
    """A task's message and context. The app that came with it stays in the response, which is dropped."""
    use = _names()
    found = client.PullTaskInput(use.PullTaskInputRequest())
    use.TaskIdentity.task_id, use.TaskIdentity.run_id = found.task_id, found.run.run_id
    use.TaskIdentity.node_id = found.context.node_id
    context = use.context_from_proto(found.context)
    pulled = client.PullMessages(use.PullAppMessagesRequest())
    [tree] = pulled.message_object_trees
    about = use.Node(node_id=context.node_id), context.run_id
    message = use.pull_and_inflate_object_from_tree(
        tree,
        use.make_pull_object_fn_protobuf(client.PullObject, *about),
        use.make_confirm_message_received_fn_protobuf(client.ConfirmMessageReceived, *about),
        return_type=Message,
        initial_backoff=FIRST_WAIT_S,
        backoff_cap=LONGEST_WAIT_S,
    )
    message.metadata.__dict__["_message_id"] = tree.object_id  # it is no part of what travels
    return message, context


def _hand_over(client: Any, reply: Message, context: Context) -> tuple[str, bool]:
    """Push a reply, and again where the connection breaks: what has arrived is not taken twice.

    Returns:
        What is wrong, "" for nothing; and whether the SuperNode may have a part of the reply.
    """
    use, offered, whole, problem = _names(), False, False, ""
    for _ in range(PUSHES):
        try:
            told = _offer(client, reply)
            offered = True
            _push(client, reply, context, told)
            whole = True
            client.PushTaskOutput(use.PushTaskOutputRequest(sub_status=use.SubStatus.COMPLETED, details=""))
        except httpx.TransportError as error:
            offered, problem = True, _kind(error)
            time.sleep(PUSH_AGAIN_S)
        except Exception as error:
            problem = _kind(error)
            break
        else:
            return "", False
    return f"the SuperNode did not take an answer: {problem}", offered and not whole


def _offer(client: Any, reply: Message) -> Any:
    """Say what a reply consists of → which parts the SuperNode lacks."""
    use = _names()
    reply.metadata.__dict__["_message_id"] = reply.object_id
    about = use.message_to_proto(use.remove_content_from_message(reply))
    with use.no_object_id_recompute():
        tree = use.get_object_tree(reply)
        return client.PushMessages(use.PushAppMessagesRequest(messages_list=[about], message_object_trees=[tree]))


def _push(client: Any, reply: Message, context: Context, told: Any) -> None:
    """Push the parts of a reply that the SuperNode lacks."""
    use = _names()
    with use.no_object_id_recompute():
        node, run = use.Node(node_id=context.node_id), context.run_id
        push = use.make_push_object_fn_protobuf(client.PushObject, node, run_id=run, session_id=told.session_id)
        use.push_objects(use.get_all_nested_objects(reply), push, object_ids_to_push=set(told.objects_to_push))


@contextmanager
def _beating(client: Any) -> Iterator[None]:
    """Tell the SuperNode every half minute that the task is worked at. Flower's own way ends the process where the
    SuperNode has forgotten the task; here the answer is refused later, and the next task comes."""
    use = _names()

    def beat() -> bool:
        try:
            client.SendTaskHeartbeat(use.SendTaskHeartbeatRequest())
        except httpx.TransportError:
            return False  # it is tried again soon
        except httpx.HTTPError:
            return True
        return True

    sender = use.HeartbeatSender(beat)
    sender.start()
    try:
        yield
    finally:
        if sender.is_running:
            sender.stop()


def _kind(error: Exception) -> str:
    """What may be told of a failure, in one line: for a refusal its status, else no more than its kind."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"status {error.response.status_code}"
    return type(error).__name__


def _names() -> Any:
    """Flower's names, once they are needed: another version may lack some of them."""
    from fedgmi.deploy import flower_names

    return flower_names
