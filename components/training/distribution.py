"""Where training runs: on one device, on several GPUs of a machine, or on several machines.

The code is the same. Several machines find each other by TF_CONFIG, in TensorFlow's format:

    {"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}

Every worker runs the same program on the same shards; only worker 0 writes.
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
    """The processes that train together, as seen by one of them."""

    strategy: Any  # a tf.distribute.Strategy
    index: int = 0  # of this worker
    count: int = 1
    replicas: int = 1  # of this worker: its GPUs, or 1

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes the results and reports progress."""
        return self.index == 0

    @property
    def parallel(self) -> int:
        """Copies of the network that compute in parallel."""
        return self.count * self.replicas

    def gather(self, value: float) -> tuple[float, ...]:
        """The values of all workers. Every worker has to call it."""
        if self.count == 1:
            return (value,)
        import tensorflow as tf

        def each() -> Any:
            mine = tf.constant([value], tf.float64)
            return tf.distribute.get_replica_context().all_gather(mine, axis=0)

        everyone = self.strategy.experimental_local_results(self.strategy.run(each))[0].numpy()
        return tuple(float(number) for number in everyone[:: self.replicas])

    def distribute(self, dataset: Any) -> Any:
        """A dataset for the strategy from one whose elements are the batches of its replicas in turn."""
        if self.parallel == 1:
            return dataset
        return self.strategy.distribute_datasets_from_function(lambda context: dataset)


def find(config: str | None = None) -> Workers:
    """The workers of this training, from TF_CONFIG (or `config` instead) and the visible GPUs.

    With several machines this must be the first use of TensorFlow in the process.
    Raises InputError for an invalid TF_CONFIG, StepError when TensorFlow was used before.
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
                f"Training with several workers must be the first use of TensorFlow in a process ({error}). "
                "Start `python -m pergola.components.training.worker`."
            ) from None
        return Workers(strategy, index, count, strategy.num_replicas_in_sync // count)
    if len(tf.config.list_logical_devices("GPU")) > 1:
        strategy = tf.distribute.MirroredStrategy()
        return Workers(strategy, replicas=strategy.num_replicas_in_sync)
    return Workers(tf.distribute.get_strategy())


def _task(config: str) -> tuple[int, int]:
    """The index of this worker, and the number of workers."""
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
        raise InputError(
            f"TF_CONFIG cannot be read ({error}): {config!r}. See TensorFlow's guide to distributed training."
        ) from None
    if task.get("type", "worker") not in ("chief", "worker"):
        raise InputError(f"TF_CONFIG: the task type must be 'chief' or 'worker', got '{task.get('type')}'.")
    if workers and not 0 <= index < len(workers):
        raise InputError(
            f"TF_CONFIG: task {index} of {len(workers)} workers does not exist: indices start at 0."
        )
    return index, max(1, len(workers))
