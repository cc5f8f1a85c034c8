"""EDGE: Great Expectations. A workspace's project, `<workspace>/gx`: what was checked, with which result.

gx/tables/images.parquet, classes.parquet   the tables that expectations are about
gx/tables/checks.parquet                    one row: how much each further check found
gx/expectations/…                           a suite for each table, made anew by each validation
gx/checkpoints/pergola.json                 runs all three; actions that a person adds to it stay
gx/uncommitted/                             the results of all validations, and Data Docs

import great_expectations as gx
context = gx.get_context(project_root_dir="pergola-work")
context.checkpoints.get("pergola").run()
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pergola.components.artifacts.data import CRITICAL, INFO, WARNING, Finding
from pergola.components.data.checks.validate import Validation
from pergola.components.data.expectations import suite
from pergola.components.data.expectations.file_table import tables
from pergola.components.data.expectations.great_expectations import make_silent, quiet
from pergola.components.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

NAME = "pergola"
DATA_DOCS = Path("gx/uncommitted/data_docs/local_site/index.html")
_CHECKS = "checks"


def record(root: Path, validation: Validation, run_name: str) -> Path:
    """Bring the project below `root` to a validation, run its checkpoint, and give the page of its Data Docs.

    run_name: of the results.  Raises InputError when there is a project that cannot be used.
    """
    with quiet() as gx:
        failures = (gx.exceptions.GreatExpectationsError, TypeError, ValueError, LookupError, OSError)
        try:
            _update(gx, root, validation).run(run_id=gx.RunIdentifier(run_name=run_name))
        except failures as error:
            raise InputError(
                f"The project of Great Expectations in '{root / 'gx'}' cannot be brought up to date "
                f"({' '.join(str(error).split())}). Repair it, or move the folder away for a new one."
            ) from None
    return root / DATA_DOCS


def _update(gx: Any, root: Path, validation: Validation) -> Any:
    """The project's checkpoint, over tables and suites of this validation."""
    context = gx.get_context(mode="file", project_root_dir=root)
    make_silent(context)
    stores = context.variables.stores
    stores["expectations_store"]["store_backend"]["module_name"] = _own_expectations()
    context.variables.stores = stores
    context.variables.save()
    folder = Path(context.root_directory) / "tables"
    _write_tables(folder, validation)
    source = context.data_sources.add_or_update_pandas_filesystem(NAME, base_directory=folder)
    definitions = [
        _definition(gx, context, source, table, rows) for table, rows in _suites(validation).items()
    ]
    return _checkpoint(gx, context, definitions)


def _own_expectations() -> str:
    from pergola.components.data.gx_project import own_expectations

    return own_expectations.__name__


def _definition(gx: Any, context: Any, source: Any, table: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    """The suite of a table, and the table that it is about."""
    batch = source.add_parquet_asset(table).add_batch_definition_path("whole", path=f"{table}.parquet")
    wanted = gx.ExpectationSuite(name=f"{NAME}_{table}", expectations=list(rows))
    made = gx.ValidationDefinition(
        name=f"{NAME}_{table}", data=batch, suite=context.suites.add_or_update(wanted)
    )
    return context.validation_definitions.add_or_update(made)


def _checkpoint(gx: Any, context: Any, definitions: list[Any]) -> Any:
    """The checkpoint over ours and a person's definitions, with a person's actions."""
    if NAME not in {one.name for one in context.checkpoints.all()}:
        docs = gx.checkpoint.UpdateDataDocsAction(name="data_docs")
        shape = {"result_format": "SUMMARY", "unexpected_index_column_names": ["name"]}
        return context.checkpoints.add(
            gx.Checkpoint(name=NAME, validation_definitions=definitions, actions=[docs], result_format=shape)
        )
    checkpoint = context.checkpoints.get(NAME)
    ours = {one.name for one in definitions}
    others = [one for one in checkpoint.validation_definitions if one.name not in ours]
    checkpoint.validation_definitions = [*definitions, *others]
    checkpoint.save()
    return checkpoint


def _suites(validation: Validation) -> dict[str, list[dict[str, Any]]]:
    """Table -> its expectations, as Great Expectations stores them; built-in ones by names of their own."""
    wanted = validation.facts.rules
    suites = {
        table: [_named(suite.configuration(rule, table)) for rule in getattr(wanted, table)]
        for table in suite.TABLES
    }
    return {**suites, _CHECKS: [_check(*found) for found in validation.found.items()]}


def _named(row: dict[str, Any]) -> dict[str, Any]:
    kind = suite.own_type(row["meta"]["pergola"]["check"])
    return {**row, "type": kind} if suite.own_types().get(kind) == row["type"] else row


def _check(name: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """That a check finds nothing. Its severity is that of the worst finding, else a warning."""
    severities = [finding.severity for finding in findings]
    worst = next((one for one in (CRITICAL, WARNING, INFO) if one in severities), WARNING)
    messages = [finding.message for finding in findings]
    return {
        "type": suite.own_type(name), "kwargs": {"column": name, "max_value": 0}, "severity": worst,
        "meta": {"pergola": {"table": _CHECKS, "check": name, "messages": messages}},
    }  # fmt: skip


def _write_tables(folder: Path, validation: Validation) -> None:
    import pandas as pd

    facts = validation.facts
    named = (table.assign(name=table["path"]) for _, table in tables(facts.folder, facts.index))
    _write(folder / "images.parquet", named)
    _write(folder / "classes.parquet", [facts.classes.assign(name=facts.classes["label"])])
    counts = {name: [sum(f.count for f in findings)] for name, findings in validation.found.items()}
    _write(folder / "checks.parquet", [pd.DataFrame({"name": [NAME], **counts})])


def _write(file: Path, blocks: Iterable[pd.DataFrame]) -> None:
    """One Parquet file of all blocks; texts may be missing throughout."""
    import pyarrow as pa

    from pergola.components.data.manifest.parquet import replaced

    writer = None
    with replaced(file) as partial:
        for block in blocks:
            kinds = {c: pa.float64() if block[c].dtype.kind in "iufb" else pa.string() for c in block}
            schema = pa.schema(list(kinds.items()))
            writer = writer or pa.parquet.ParquetWriter(partial, schema)
            writer.write_table(pa.Table.from_pandas(block, schema=schema, preserve_index=False))
        if writer:
            writer.close()
