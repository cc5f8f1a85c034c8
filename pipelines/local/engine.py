"""Runs a pipeline's steps in this process, one after the other, and reuses what did not change."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from pergola.components import records
from pergola.components.artifacts.decision import Decision
from pergola.components.errors import InputError, StepError
from pergola.components.steps.context import Context
from pergola.pipelines.definition import Pipeline, Step
from pergola.pipelines.local.cache import Cache, Output, key_of

log = logging.getLogger(__name__)


class Engine:
    """One run of a pipeline.

    done: outputs so far, by step, in order.  force_from: a step from which everything is done again.
    on_start, on_end: called around each step.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        context: Context,
        *,
        force_from: str | None = None,
        on_start: Callable[[Step], None] = lambda step: None,
        on_end: Callable[[Step, Output], None] = lambda step, output: None,
    ) -> None:
        names = [step.name for step in pipeline.steps if step.local]
        if force_from is not None and force_from not in names:
            raise InputError(f"--force: there is no step '{force_from}'.{records.nearest(force_from, names)}")
        self.pipeline, self.context = pipeline, context
        self.cache = Cache(context.workspace.steps)
        self.done: dict[str, Output] = {}
        self._force_from, self._on_start, self._on_end = force_from, on_start, on_end

    def run(self, until: str | None = None) -> None:
        """All steps in order, up to and with `until`.

        An output that turns out to be damaged when it is about to be released is made again, and all after
        it.
        """
        if (damaged := self._run(until)) is None:
            return
        log.warning("the output of step %s was altered, it is made again: %s", damaged.step, damaged.folder)
        self.cache.forget(damaged)
        self.done.clear()
        if (damaged := self._run(until)) is not None:
            raise StepError(f"The output of step {damaged.step} changes while it is used: {damaged.folder}.")

    def output(self, artifact: str) -> Output:
        """What was made under this name."""
        return self.done[self.pipeline.makers[artifact].name]

    def _run(self, until: str | None) -> Output | None:
        """Gives the damaged output that stopped it, if any."""
        forced = False
        for step in self.pipeline.steps:
            if not self._applies(step):
                continue
            for name in step.verifies:
                if not self.cache.is_sound(found := self.output(name)):
                    return found
            forced = forced or step.name == self._force_from
            self._on_start(step)
            if step.check:
                step.check(
                    step.context(self.context),
                    {name: made.folder for name, made in self._inputs(step).items()},
                )
            output = self._step(step, forced)
            self.done[step.name] = output
            self._on_end(step, output)
            if step.name == until:
                break
        return None

    def _applies(self, step: Step) -> bool:
        if not step.local or (step.releases and self.context.reproduces is not None):
            return False
        return not step.outcomes or step.is_done_when(Decision.load(self.output("decision").folder).outcome)

    def _step(self, step: Step, forced: bool) -> Output:
        context, inputs = step.context(self.context), self._inputs(step)
        key = key_of({name: found.sha256 for name, found in inputs.items()},
                     step.settings_in(self.context), code=step.code_digest(), model=context.model,
                     observed=step.observes(context) if step.observes else "")  # fmt: skip
        found = None if forced else self.cache.find(step.name, key)
        if found and step.has_effects and not self._still_there(step, context, found):
            found = None
        if found and not step.always:
            return found
        folders = {name: output.folder for name, output in inputs.items()}
        work = lambda out: step.function(context, out, **folders)  # noqa: E731
        output = self.cache.make(step.name, key, work, resumes=step.resumes and not forced)
        return replace(output, reused=True) if found and found.sha256 == output.sha256 else output

    def _inputs(self, step: Step) -> dict[str, Output]:
        """What it takes, without the outputs of steps that are not done with the gate's outcome."""
        return {
            name: self.output(name) for name in step.inputs if self.pipeline.makers[name].name in self.done
        }

    def _still_there(self, step: Step, context: Context, found: Output) -> bool:
        """Whether what a step with effects did is still so: its own, and that of those it builds on."""
        for name, made in self._inputs(step).items():
            if self.pipeline.makers[name].has_effects and not made.reused:
                return False
        return step.still is None or step.still(context, found.folder)
