"""The messages that docs/troubleshooting.md, docs/kubeflow.md and the runbook quote are in the source."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# In the runbook: messages of Kubernetes, TensorFlow Serving, MLflow or a client, and emphasised words.
OF_OTHERS = re.compile(
    r"ImagePullBackOff|violates PodSecurity|exceeded quota|admission webhook|conflict with|servable"
    r"|string pattern|Invalid Host|Could not connect|User … cannot|not found"
    r"|ContainerCreating|knows no (InferenceService|GRPCRoute|TrainJob)|New pods are|^Brightness"
)


@pytest.fixture(scope="module")
def messages():
    """Every string of the source; what is formatted into it as "…"."""
    texts = []
    for folder in ("pergola", "pipelines", "components", "k8s", "serving"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                    texts.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return "\n".join(" ".join(text.split()) for text in texts if text.strip())


def quoted(page, pattern):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [found for found in re.findall(pattern, text, re.M) if not OF_OTHERS.search(found)]


def is_in(quote, messages):
    parts = [part.strip(" '.,:;()") for part in quote.replace("...", "…").split("…")]
    return all(re.sub(r"\s+", " ", part) in messages for part in parts if part)


@pytest.mark.parametrize(
    ("page", "pattern"),
    [
        ("troubleshooting.md", r"^\| `([^`]+)`"),
        ("kubeflow.md", r"^\| `([A-Z…][^`]+ [^`]+)`"),
        ("operations.md", r"\*([^*\n]+ [^*\n]+)\*"),
    ],
)
def test_quoted_messages_are_in_the_source(page, pattern, messages):
    quotes = quoted(page, pattern)
    assert quotes
    assert [quote for quote in quotes if not is_in(quote, messages)] == []


def test_a_message_that_is_not_in_the_source_is_found(messages):
    assert not is_in("There is no pergola under …", messages)
