"""What AsyncClient does as an asyncio client; that its calls are those of Client, the tests of both show."""

import asyncio
import contextlib
import inspect
import re
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from pergola.serving.client import (
    AsyncClient,
    Cancelled,
    Client,
    ClientLog,
    DeadlineExceeded,
    InvalidInput,
    ServedModel,
    Unavailable,
)
from tests.support.images import pixels, png
from tests.support.scripted_server import CLASSES, ScriptedServer
from tests.support.servers import until

IMAGE = {"image": [b"a"]}


@pytest.fixture
def server():
    with ScriptedServer(num_threads=64) as server:
        yield server
        server.delay_s = 0


def run(server, use, **options):
    """What the coroutine function `use` returns for a client, in a loop of its own."""

    async def main():
        async with AsyncClient(server.address, **{"model": "leaves", "timeout_s": 10, **options}) as client:
            return await use(client)

    return asyncio.run(main())


def test_methods_are_those_of_client_with_the_same_arguments():
    public = {name for name in vars(Client) if not name.startswith("_")}
    assert {name for name in vars(AsyncClient) if not name.startswith("_")} == public - {"predict_async"}
    for name in public - {"predict_async"}:
        theirs = inspect.signature(getattr(Client, name)).parameters.values()
        ours = inspect.signature(getattr(AsyncClient, name)).parameters.values()
        assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in theirs]
    more = set(inspect.signature(AsyncClient).parameters) - set(inspect.signature(Client).parameters)
    assert more == {"max_in_flight"}


def test_calls_answer_in_one_loop(server):
    async def use(client):
        prediction = await client.predict(IMAGE, outputs=["label"])
        answer = await client.classify_images([png(pixels(label, 0)) for label in range(3)], batch_size=2)
        versions = await client.status()
        metadata = await client.metadata()
        await client.reload([ServedModel("leaves", "/models/leaves")])
        return prediction, answer, versions, metadata, await client.wait_until_available()

    prediction, answer, versions, metadata, available = run(server, use)
    assert prediction["label"].tolist() == [b"quercus"] and prediction.version == 1
    assert len(answer) == 3 and answer.classes == CLASSES
    assert [v.version for v in versions] == [available] == [1]
    assert "serving_default" in metadata.signatures
    assert server.requests[-2][0] == "HandleReloadConfigRequest"


def test_200_concurrent_calls_share_the_room_that_there_is(server):
    server.delay_s = 0.01

    async def use(client):
        calls = [client.predict({"image": [b"a" * (i % 3 + 1)]}) for i in range(200)]
        return [answer["label"][0] for answer in await asyncio.gather(*calls)]

    labels = run(server, use, max_in_flight=24)
    assert labels == [(b"quercus", b"tilia", b"acer")[i % 3] for i in range(200)]
    assert 12 <= server.most_under_way <= 24
    assert len(server.requests) == 200


def test_calls_without_room_end_at_their_deadline_unsent(server):
    server.delay_s = 1

    async def use(client):
        first = asyncio.create_task(client.predict(IMAGE))
        await asyncio.sleep(0.1)
        with pytest.raises(
            DeadlineExceeded, match=r"was not sent within 0\.2 s: max_in_flight=1 other calls"
        ):
            await client.predict(IMAGE, timeout_s=0.2)
        return await first

    assert run(server, use, max_in_flight=1).version == 1
    assert len(server.requests) == 1


def test_cancelled_call_waiting_for_room_leaves_it_to_the_next(server):
    server.delay_s = 0.2

    async def use(client):
        first, second, third = (asyncio.create_task(client.predict(IMAGE)) for _ in range(3))
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.gather(first, third)
        return second.cancelled()

    assert run(server, use, max_in_flight=1)
    assert len(server.requests) == 2


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_cancelling_a_task_cancels_its_call_at_the_server(server, how):
    server.delay_s = 0.5

    async def use(client):
        if how == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.predict(IMAGE)
        else:
            task = asyncio.create_task(client.predict(IMAGE))
            await asyncio.to_thread(until, lambda: server.under_way)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.to_thread(until, lambda: server.num_abandoned == 1, 0.25)
        server.delay_s = 0
        return await client.predict(IMAGE)

    assert run(server, use).version == 1


@pytest.mark.parametrize("num_images", [3, 8], ids=["all sent", "more to send"])
def test_cancelling_a_classification_cancels_all_its_requests(server, num_images):
    server.delay_s = 0.5
    images = [np.zeros((4, 4), np.uint8)] * num_images

    async def use(client):
        task = asyncio.create_task(client.classify_images(images, batch_size=1, in_flight=3))
        await asyncio.to_thread(until, lambda: server.under_way == 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(until, lambda: server.num_abandoned == 3, 0.25)
        return len(asyncio.all_tasks())

    assert run(server, use) == 1
    assert len(server.requests) == 3


def test_cancelling_ends_a_call_between_its_retries():
    async def main():
        async with AsyncClient("127.0.0.1:1", model="leaves", timeout_s=60) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.predict(IMAGE), 0.3)

    started = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - started < 5


def test_predict_many_takes_async_iterators_only_as_there_is_room(server):
    taken = []

    async def requests() -> AsyncIterator[dict]:
        for i in range(1000):
            taken.append(i)
            await asyncio.sleep(0)
            yield {"image": [b"a" * (i % 3 + 1)]}

    async def use(client):
        async with contextlib.aclosing(client.predict_many(requests(), in_flight=4)) as answers:
            return [(await anext(answers))["label"][0] for _ in range(20)]

    assert run(server, use) == [(b"quercus", b"tilia", b"acer")[i % 3] for i in range(20)]
    assert len(taken) <= 20 + 17
    assert server.most_under_way <= 4


def test_predict_many_left_early_cancels_the_rest(server):
    plain, may_end = server.answer, threading.Event()

    def answer(inputs, signature):
        if inputs["image"][0] == b"slow":
            may_end.wait(20)
        return plain(inputs, signature)

    server.answer = answer

    async def use(client):
        requests = [IMAGE, *[{"image": [b"slow"]}] * 3]
        async with contextlib.aclosing(client.predict_many(requests, in_flight=4)) as answers:
            async for _ in answers:
                await asyncio.to_thread(until, lambda: server.under_way == 3, 10)
                break
        await asyncio.to_thread(until, lambda: server.num_abandoned == 3, 10)

    try:
        run(server, use)
    finally:
        may_end.set()


def test_predict_many_raises_in_its_turn(server):
    server.answer = lambda inputs, signature: (_ for _ in ()).throw(ValueError("bad image"))

    async def use(client):
        with pytest.raises(InvalidInput, match=r"bad image.*takes image: string"):
            await anext(client.predict_many([IMAGE] * 3))

    run(server, use)


def test_classify_takes_an_async_iterator_and_reads_outside_of_the_loop(server):
    threads = set()

    class Watched(type(Path())):
        def __str__(self):
            threads.add(threading.current_thread())
            return super().__str__()

    async def images():
        yield np.zeros((4, 4), np.uint8)
        yield Watched("no-such-file.jpg")

    async def use(client):
        with pytest.raises(InvalidInput, match=r"Image 1: .*No such file"):
            await client.classify_images(images())
        arrays = (image async for image in images() if isinstance(image, np.ndarray))
        answers = await client.classify_images(arrays)
        return answers.labels

    assert run(server, use)[0] in CLASSES
    assert threads and threading.main_thread() not in threads


def test_close_ends_calls_in_flight_waiting_for_room_and_between_retries(server):
    server.delay_s = 2

    async def main():
        client = AsyncClient(server.address, model="leaves", max_in_flight=2)
        dead = AsyncClient("127.0.0.1:1", model="leaves", timeout_s=60)
        calls = [asyncio.create_task(client.predict(IMAGE)) for _ in range(5)]
        calls.append(asyncio.create_task(dead.predict(IMAGE)))
        await asyncio.to_thread(until, lambda: server.under_way == 2)
        started = time.monotonic()
        await client.close()
        await dead.close()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        return ends, time.monotonic() - started

    ends, seconds = asyncio.run(main())
    assert [type(end) for end in ends[:5]] == [Cancelled] * 5
    assert isinstance(ends[5], Cancelled | Unavailable)
    assert seconds < 1.5
    assert len(server.requests) == 2


def test_use_after_close_says_so(server):
    async def main():
        async with AsyncClient(server.address, model="leaves") as client:
            pinned = client.at(version=1)
            await pinned.predict(IMAGE)
        await client.close()  # again, which does nothing
        for late in (client, pinned):
            with pytest.raises(Cancelled, match="This client is closed"):
                await late.predict(IMAGE)
        with pytest.raises(Cancelled, match="This client is closed"):
            await anext(client.predict_many([IMAGE]))

    asyncio.run(main())
    assert len(server.requests) == 1


def test_second_event_loop_is_refused(server):
    client = AsyncClient(server.address, model="leaves")
    words = r"belongs to the event loop that used it first.*Create one client for each loop"

    async def ask():
        return (await client.predict(IMAGE)).version

    async def enter():
        async with client:
            pass

    with asyncio.Runner() as runner:
        assert runner.run(ask()) == 1
        for use in (ask, enter, client.close, client.at(version=1).status):
            with pytest.raises(InvalidInput, match=words):
                asyncio.run(use())
        assert runner.run(ask()) == 1
        runner.run(client.close())


def test_token_is_asked_for_each_call_and_log_keeps_what_was_answered(server, tmp_path):
    tokens = iter(["first", "second"])

    async def use(client):
        await client.predict(IMAGE)
        await client.status()

    with ClientLog(tmp_path / "log") as log:
        run(server, use, token=lambda: next(tokens), log=log)
    assert [call["authorization"] for call in server.metadata] == ["Bearer first", "Bearer second"]
    assert len(list(tmp_path.glob("log-*.tfrecord"))) == 1 and log.failed == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": ""}, "name of the model is empty"),
        ({"version": 1, "label": "x"}, "Pin one of them"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"max_in_flight": 0}, "max_in_flight is 0, expected at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused_without_a_loop(options, words):
    with pytest.raises(InvalidInput, match=re.escape(words)):
        AsyncClient("localhost:8500", **{"model": "leaves", **options})


def test_failures_that_nobody_awaits_are_not_logged(server, caplog):
    server.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "no")] * 8

    async def use(client):
        with pytest.raises(InvalidInput):
            async for _ in client.predict_many([IMAGE] * 8, in_flight=8):
                pass

    run(server, use)
    import gc

    gc.collect()
    assert not caplog.records
