"""Where a training runs: on one device, on several GPUs of a machine, or on several machines.

All from the same code. Several machines find each other by TF_CONFIG, as TensorFlow wants it:

    {"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}

Every worker runs the same program on the same shards; worker 0 alone writes.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pergola.components.errors import InputError, StepError

TF_CONFIG = "TF_CONFIG"


@dataclass(frozen=True)
class Workers:
    """Those that train together, seen from one of them."""

    strategy: Any  # a tf.distribute.Strategy
    index: int = 0  # of this worker
    count: int = 1
    replicas: int = 1  # of this worker: its GPUs, or 1

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the one that writes and tells."""
        return self.index == 0

    @property
    def parallel(self) -> int:
        """Copies of the network that compute side by side."""
        return self.count * self.replicas

    def gather(self, value: float) -> tuple[float, ...]:
        """A number of each worker, for all of them. Every worker has to call it."""
        if self.count == 1:
            return (value,)
        import tensorflow as tf

        def each() -> Any:
            mine = tf.constant([value], tf.float64)
            return tf.distribute.get_replica_context().all_gather(mine, axis=0)

        everyone = self.strategy.experimental_local_results(self.strategy.run(each))[0].numpy()
        return tuple(float(number) for number in everyone[:: self.replicas])

    def distribute(self, dataset: Any) -> Any:
        """For the strategy, a dataset whose elements are batches of single replicas, one after another."""
        if self.parallel == 1:
            return dataset
        return self.strategy.distribute_datasets_from_function(lambda context: dataset)


def find(config: str | None = None) -> Workers:
    """What this process is to train on: by TF_CONFIG (or `config` in its place) and the GPUs it sees.

    Several machines have to be asked for before TensorFlow does anything else in the process.
    Raises InputError for a TF_CONFIG that is none, StepError when TensorFlow was used already.
    """
    return _find(os.environ.get(TF_CONFIG, "") if config is None else config)


@functools.lru_cache(maxsize=1)
def _find(config: str) -> Workers:
    import tensorflow as tf

    index, count = _task(config)
    if count > 1:
        try:
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
        except RuntimeError as error:
            raise StepError(
                f"Several workers must be the first that a process asks TensorFlow for ({error}). "
                "Start `python -m pergola.components.training.worker`."
            ) from None
        return Workers(strategy, index, count, strategy.num_replicas_in_sync // count)
    if len(tf.config.list_logical_devices("GPU")) > 1:
        strategy = tf.distribute.MirroredStrategy()
        return Workers(strategy, replicas=strategy.num_replicas_in_sync)
    return Workers(tf.distribute.get_strategy())


def _task(config: str) -> tuple[int, int]:
    """This worker's number, and how many there are."""
    if not config.strip():
        return 0, 1
    try:
        data = json.loads(config)
        workers = [
            address for role in ("chief", "worker") for address in data.get("cluster", {}).get(role, ())
        ]
        task: Mapping[str, Any] = data.get("task", {})
        before = (
            len(data.get("cluster", {}).get("chief", ())) if task.get("type", "worker") == "worker" else 0
        )
        index = before + int(task.get("index", 0))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"TF_CONFIG cannot be read ({error}): {config!r}. See TensorFlow's guide.") from None
    if task.get("type", "worker") not in ("chief", "worker"):
        raise InputError(f"TF_CONFIG: a task is 'chief' or 'worker' here, got '{task.get('type')}'.")
    if workers and not 0 <= index < len(workers):
        raise InputError(f"TF_CONFIG: this is task {index} of {len(workers)} workers: there is no such one.")
    return index, max(1, len(workers))
