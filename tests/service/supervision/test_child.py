"""A child's life: messages, exit codes, signals, sockets, and that it never outlives its supervisor."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest
import uvloop

from service.supervision.child import MESSAGE_BYTES, UNREAD_BYTES, Child, Method, reason_of
from service.supervision.heartbeat import Heartbeat
from tests.service.supervision import targets
from tests.service.supervision.conftest import Start
from tests.service.supervision.supervisor import parent_of

ROOT = Path(__file__).parents[3]
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prctl")


def state_of(pid: int) -> str:
    """The state letter of a process: Z for one that is dead and not waited for; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def send_often(child: Child, times: int) -> None:
    for _ in range(times):
        child.send(b"x" * MESSAGE_BYTES)


# Messages.


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_messages_go_both_ways(start: Start, method: Method) -> None:
    child = await start(targets.echo, b"first", method=method)
    messages = [b"", b"x", b"\0" * 100_000, b"y" * MESSAGE_BYTES]
    for message in messages:
        child.send(message)
    assert [await child.receive() for _ in range(5)] == [b"first", *messages]


async def test_messages_before_the_end_are_received_after_it(start: Start) -> None:
    child = await start(targets.send_many, 20, 1000)
    assert await child.wait() == 0
    assert [await child.receive() for _ in range(20)] == [bytes([number]) * 1000 for number in range(20)]
    with pytest.raises(EOFError):
        await child.receive()
    assert child._transport.is_closing()
    child.send(b"nobody reads this")


def test_all_of_it_works_on_uvloop() -> None:
    async def run() -> tuple[bytes, bytes, int]:
        child = await Child.start("genserve-test", targets.echo)
        child.send(b"x" * MESSAGE_BYTES)
        first, second = await child.receive(), await child.receive()
        child.terminate()
        return first, second, await child.wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(run()) == (b"ready", b"x" * MESSAGE_BYTES, 0)


async def test_a_cancelled_receive_loses_nothing(start: Start) -> None:
    child = await start(targets.send_in_parts, b"whole")
    receiving = asyncio.create_task(child.receive())
    while child._length is None:
        await asyncio.sleep(0.001)
    receiving.cancel()
    await asyncio.wait([receiving])
    child.send(b"go on")
    assert await child.receive() == b"whole"


async def test_a_message_that_is_too_long_is_an_error_at_either_end(start: Start) -> None:
    child = await start(targets.send_many, 1, MESSAGE_BYTES + 1)
    with pytest.raises(ValueError, match="1048577 bytes"):
        child.send(b"x" * (MESSAGE_BYTES + 1))
    with pytest.raises(ValueError, match="genserve-test sent a message of 1048577 bytes"):
        await child.receive()


async def test_send_does_not_wait_for_a_child_that_does_not_read(start: Start) -> None:
    child = await start(targets.never_read)
    await child.receive()
    for _ in range(UNREAD_BYTES // MESSAGE_BYTES):
        child.send(b"x" * MESSAGE_BYTES)
    with pytest.raises(BufferError, match="does not read"):
        send_often(child, 2)


# The end.


@pytest.mark.parametrize(
    ("target", "args", "code", "reason"),
    [
        (targets.leave, (0,), 0, "exit code 0"),
        (targets.leave, (3,), 3, "exit code 3"),
        (targets.leave, (255,), 255, "exit code 255, or its fork server has ended"),
        (targets.fail, (), 1, "exit code 1"),
        (targets.die, (signal.SIGKILL,), -9, "killed by signal SIGKILL"),
        (targets.die, (signal.SIGSEGV,), -11, "killed by signal SIGSEGV"),
    ],
)
async def test_the_exit_code_and_its_words(
    start: Start, target: Callable[..., None], args: tuple[int, ...], code: int, reason: str
) -> None:
    child = await start(target, *args)
    assert await child.wait() == code
    assert await child.wait() == code
    assert child.exit_reason() == reason
    assert not child.running
    child.kill()
    child.terminate()


def test_a_signal_without_a_name_has_a_number() -> None:
    assert reason_of(-55) == "killed by signal 55"


async def test_terminate_asks_and_kill_does_not(start: Start) -> None:
    obeys, refuses = await start(targets.echo), await start(targets.ignore_sigterm)
    for child in (obeys, refuses):
        await child.receive()
        assert child.exit_reason() == "running"
        child.terminate()
    assert await obeys.wait() == 0
    assert refuses.running
    refuses.kill()
    assert await refuses.wait() == -signal.SIGKILL


async def test_several_tasks_may_wait_and_be_cancelled(start: Start) -> None:
    child = await start(targets.echo)
    waiting = [asyncio.create_task(child.wait()) for _ in range(3)]
    await child.receive()
    waiting[0].cancel()
    await asyncio.sleep(0)
    child.terminate()
    assert await asyncio.gather(*waiting[1:]) == [0, 0]


async def test_a_child_that_holds_the_interpreter_is_killed(start: Start) -> None:
    child = await start(targets.hold_interpreter)
    await child.receive()
    child.terminate()  # cannot be handled
    child.kill()
    assert await child.wait() == -signal.SIGKILL


async def test_a_busy_child_ends_when_its_channel_closes(start: Start) -> None:
    child = await start(targets.never_read)
    await child.receive()
    child._transport.abort()  # as if the supervisor had ended
    assert await child.wait() == 1


# Set-up.


async def test_the_supervisor_keeps_its_signals(start: Start) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    await start(targets.echo)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


@linux_only
async def test_a_child_has_a_name_and_ignores_the_signals_of_a_terminal(start: Start) -> None:
    child = await start(targets.describe)
    assert await child.receive() == b"genserve-test True 0 True"


def test_what_is_wrong_with_the_fork_server_is_said() -> None:
    script = """
import sys
from service.supervision.child import prepare
class Printed:
    def warning(self, message, extra):
        print(extra["reason"])
import service.supervision.child as child
child.log = Printed()
prepare(["json", "tests.service.supervision.starts_a_thread", "no_such_module"])
"""
    command = [sys.executable, "-W", "error", "-c", script]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert printed.stderr == ""
    reasons = ["no_such_module could not be imported", "it has 2 threads"]
    assert printed.stdout.splitlines() == (reasons if sys.platform == "linux" else reasons[:1])


async def test_a_listening_socket_survives_the_child_that_accepts(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(2):
            child = await start(targets.serve_one, listener)
            with socket.create_connection(listener.getsockname()) as client:
                assert await asyncio.to_thread(client.recv, 100) == str(child.pid).encode()
            child.kill()
            await child.wait()


# Heartbeats of a real process.


@linux_only
async def test_a_stopped_child_is_silent_and_can_be_killed(start: Start, tmp_path: Path) -> None:
    heartbeat = Heartbeat.create(tmp_path / "beat", 1, 3)
    child = await start(targets.beat, str(tmp_path / "beat"))
    await child.receive()
    os.kill(child.pid, signal.SIGSTOP)
    wait_until(lambda: state_of(child.pid) == "T")
    now = time.monotonic()
    silent = heartbeat.silent_s(now)
    assert heartbeat.silent_s(now + 7) == pytest.approx(silent + 7)
    os.kill(child.pid, signal.SIGCONT)
    wait_until(lambda: heartbeat.silent_s(now + 7) < silent + 7)
    os.kill(child.pid, signal.SIGSTOP)
    child.kill()
    assert await child.wait() == -signal.SIGKILL
    heartbeat.close()


async def test_a_beating_child_has_a_sign_of_life_at_every_moment(start: Start, tmp_path: Path) -> None:
    # A moment without one would be the last of a child that is stopped in it: nobody would call it silent.
    heartbeat = Heartbeat.create(tmp_path / "beat", 1, 3)
    child = await start(targets.beat, str(tmp_path / "beat"))
    await child.receive()
    later = time.monotonic() + 60
    assert all(heartbeat.silent_s(later) > 0 for _ in range(50_000))
    child.kill()
    await child.wait()
    heartbeat.close()


async def test_a_child_killed_at_any_moment_leaves_a_readable_heartbeat(start: Start, tmp_path: Path) -> None:
    heartbeat = Heartbeat.create(tmp_path / "beat", 1, 3)
    for _ in range(10):
        heartbeat.reset()
        child = await start(targets.beat, str(tmp_path / "beat"))
        await child.receive()
        child.kill()
        await child.wait()
        assert heartbeat.rows_inside() in ([], [7, 8, 9])
        assert heartbeat.longest_s > 0
    heartbeat.close()


# The supervisor's end.


class Supervisor:
    """A supervisor process with three children: one answers, one hangs, one is stopped."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "error", "-m", "tests.service.supervision.supervisor"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        *self.children, self.fork_server = [int(word) for word in self._line().split()]

    def ask(self, text: bytes) -> bytes:
        self._of(self.process.stdin).write(text + b"\n")
        self._of(self.process.stdin).flush()
        return self._line()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._of(self.process.stdin).close()
        self._of(self.process.stdout).close()

    def _line(self) -> bytes:
        return self._of(self.process.stdout).readline().strip()

    @staticmethod
    def _of(stream: IO[bytes] | None) -> IO[bytes]:
        assert stream is not None
        return stream


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    supervisor = Supervisor()
    yield supervisor
    supervisor.close()
    for pid in supervisor.children:  # those that a failed test has left
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@linux_only
def test_all_children_end_when_the_supervisor_is_killed(supervisor: Supervisor) -> None:
    assert supervisor.ask(b"hello") == b"hello 5"
    family = [*supervisor.children, supervisor.fork_server]
    assert all(state_of(pid) not in {"", "Z"} for pid in family)
    supervisor.process.kill()
    wait_until(lambda: all(state_of(pid) in {"", "Z"} for pid in family))


@linux_only
def test_signals_to_the_whole_service_reach_its_supervisor_only(supervisor: Supervisor) -> None:
    os.killpg(supervisor.process.pid, signal.SIGINT)
    os.killpg(supervisor.process.pid, signal.SIGHUP)
    os.kill(supervisor.fork_server, signal.SIGTERM)
    assert supervisor.ask(b"still there") == b"still there 5"


@linux_only
def test_a_supervisor_that_fails_does_not_wait_for_its_children(supervisor: Supervisor) -> None:
    supervisor._of(supervisor.process.stdin).close()  # its main function returns
    assert supervisor.process.wait(30) == 0
    wait_until(lambda: all(state_of(pid) in {"", "Z"} for pid in supervisor.children))


@linux_only
async def test_children_end_with_their_fork_server_and_the_next_starts_another(start: Start) -> None:
    children = [await start(targets.echo), await start(targets.hold_interpreter)]
    for child in children:
        await child.receive()
    os.kill(parent_of(children[0].pid), signal.SIGKILL)
    assert [await child.wait() for child in children] == [255, 255]
    wait_until(lambda: all(state_of(child.pid) in {"", "Z"} for child in children))
    another = await start(targets.echo)
    assert await another.receive() == b"ready"
