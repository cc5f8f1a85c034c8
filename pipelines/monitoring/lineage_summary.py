"""The text output of `pergola lineage`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Record = Mapping[str, Any]


def of_version(found: Record) -> str:
    """One line for each stage, from images to feedback."""
    links = {
        "images": _images(found["images"]),
        "settings": found["settings"],
        "code": found["code"],
        "run": _run(found["run"]),
        "model": _network(found["network"]),
        "decision": _decision(found["decision"]),
        "release": _release(found["release"]),
        "requests": _requests(found["requests"]),
        "drift": f"{found['drift']['checks']} checks, {found['drift']['drifted']} found drift",
        "feedback": _feedback(found["feedback"]),
    }
    name = f"{found['model']}/{found['version']}"
    lines = [f"{found['model']} version {found['version']}"]
    lines += [f"  {link:<10}{line}" for link, line in links.items()]
    return "\n".join([*lines, f"To reproduce it: pergola run --reproduce {name}"])


def of_image(found: Record) -> str:
    """One line per version that used it, per version that it was sent to, and per label from feedback."""
    lines = [f"Image {found['id']}", *map("  {}".format, _uses(found))]
    if not found["versions"]:
        lines.append("  No version used this file. A re-encoded copy counts as another image.")
    for request in found["requests"]:
        name = f"{request['model']} version {request['version']}"
        times = "once" if request["count"] == 1 else f"{request['count']} times"
        lines.append(f"  sent to {name} {times}")
    lines += [f"  labelled '{label['label']}' in feedback ({label['model']})" for label in found["feedback"]]
    return "\n".join(lines)


def _uses(found: Record) -> Iterator[str]:
    for seen in found["versions"]:
        for row in seen["files"]:
            use = f"excluded ({row['excluded']})" if row["excluded"] else f"{row['split']} split"
            yield f"{seen['model']} version {seen['version']}: {use}, as '{row['label']}', {row['path']}"


def _images(images: Record) -> str:
    splits = ", ".join(f"{images[name]:,} {name}" for name in ("train", "validation", "test"))
    return (
        f"{images['files']:,} files in {images['classes']} classes, {images['excluded']:,} excluded; "
        f"{splits}; {images['source']}, fingerprint {images['fingerprint'][:16]}…"
    )


def _run(run: Record) -> str:
    why = [f"`{run['command']}`"] * bool(run["command"]) + [f"reason: {run['reason']}"] * bool(run["reason"])
    return ", ".join([run["id"], f"released {run['released']}", *why])


def _network(network: Record) -> str:
    return (
        f"{network['architecture']}, {network['parameters']:,} parameters, {network['epochs']} epochs, "
        f"seed {network['seed']}, SHA-256 {network['sha256'][:16]}…"
    )


def _decision(decision: Record) -> str:
    champion = f", compared with version {decision['champion']}" if decision["champion"] else ""
    return (
        f"{decision['outcome']} by {decision['rules']} rules{champion}; "
        f"accuracy {decision['accuracy']:.1%} on {decision['test_images']:,} test images"
    )


def _release(release: Record) -> str:
    state = ["published" if release["published"] else "no longer published"]
    state += ["champion"] * release["champion"]
    state += ["its files DIFFER from those that were registered"] * (release["unchanged"] is False)
    return ", ".join(state)


def _requests(requests: Record) -> str:
    span = f", {requests['first']} to {requests['last']}" if requests["logged"] else ""
    return f"{requests['logged']:,} logged{span}"


def _feedback(feedback: Record | None) -> str:
    if feedback is None:
        return "none"
    low, high = feedback["interval"]
    interval = f"{low:.1%} to {high:.1%}"
    return f"accuracy {feedback['accuracy']:.1%} ({interval}) on {feedback['images']:,} labelled images"
