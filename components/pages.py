"""The HTML pages (report, data checks, drift): one Jinja environment, one layout, one stylesheet.

A page is a single file that loads nothing from the network. Its template lies beside the module that fills
it and extends page.html.j2. Text is escaped: names of classes and files are never markup.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pergola.components import formatting
from pergola.components.outside_text import visible

LAYOUT = "page.html.j2"

_FILTERS = (
    formatting.percent,
    formatting.percent_interval,
    formatting.signed_points,
    formatting.signed_points_interval,
    formatting.number,
    formatting.number_interval,
    formatting.probability,
    formatting.count,
    formatting.megabytes,
)


def render(template: Path, content: Mapping[str, Any]) -> str:
    """The page that `template` makes of `content`. A name that is missing from `content` is an error.

    Besides Jinja's own filters a template has the functions of components/formatting.py.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).with_name(LAYOUT).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {function.__name__: function for function in _FILTERS}
    return environment.get_template(template.name).render(content)


def _shown(value: Any) -> Any:
    """Texts from outside without characters that turn the text beside them around."""
    return visible(value) if type(value) is str else value
