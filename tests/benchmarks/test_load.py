import asyncio

from benchmarks.load import run


async def test_all_answers_count_for_processor_time_and_late_ones_for_speed() -> None:
    answered = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                answered += 1
                writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    outcome = await run(server.sockets[0].getsockname()[1], "/", "", connections=2, seconds=0.1, warm_up=0.1)
    server.close()
    await server.wait_closed()
    assert outcome.answers == answered
    assert 0 < outcome.failures == round(outcome.answers_per_s * 0.1) < answered
    assert outcome.cpu_s > 0
