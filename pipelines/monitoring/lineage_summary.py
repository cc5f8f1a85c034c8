"""What `pergola lineage` says to a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Found = Mapping[str, Any]


def of_version(found: Found) -> str:
    """A few words on each link of the chain."""
    links = {
        "images": _images(found["images"]),
        "settings": found["settings"],
        "code": found["code"],
        "run": _run(found["run"]),
        "network": _network(found["network"]),
        "decision": _decision(found["decision"]),
        "release": _release(found["release"]),
        "requests": _requests(found["requests"]),
        "drift": f"{found['drift']['looks']} looks, {found['drift']['drifted']} of them found drift",
        "feedback": _feedback(found["feedback"]),
    }
    name = f"{found['model']}/{found['version']}"
    lines = [f"{found['model']} version {found['version']}"]
    lines += [f"  {link:<10}{line}" for link, line in links.items()]
    return "\n".join([*lines, f"Make it again: pergola run --like {name}"])


def of_image(found: Found) -> str:
    """A line a version that saw it, was asked about it, or a person who said what it is."""
    lines = [f"Image {found['id']}", *map("  {}".format, _sides(found))]
    if not found["versions"]:
        lines.append("  No version has seen these bytes. A copy that was encoded anew is another image.")
    for asked in found["requests"]:
        name = f"{asked['model']} version {asked['version']}"
        times = "once" if asked["count"] == 1 else f"{asked['count']} times"
        lines.append(f"  {name} was asked about it {times}")
    lines += [f"  people say it is '{said['label']}' ({said['model']})" for said in found["feedback"]]
    return "\n".join(lines)


def _sides(found: Found) -> Iterator[str]:
    for seen in found["versions"]:
        for row in seen["files"]:
            side = f"kept out ({row['kept_out']})" if row["kept_out"] else f"{row['part']} part"
            yield f"{seen['model']} version {seen['version']}: {side}, as '{row['label']}', {row['path']}"


def _images(images: Found) -> str:
    parts = ", ".join(f"{images[part]:,} {part}" for part in ("train", "validation", "test"))
    return (
        f"{images['files']:,} files in {images['classes']} classes, {images['kept_out']:,} kept out; "
        f"{parts}; "
        f"{images['source']}, fingerprint {images['fingerprint'][:16]}…"
    )


def _run(run: Found) -> str:
    why = [f"`{run['command']}`"] * bool(run["command"]) + [f"because: {run['reason']}"] * bool(run["reason"])
    return ", ".join([run["id"], f"released {run['released']}", *why])


def _network(network: Found) -> str:
    return (
        f"{network['architecture']}, {network['parameters']:,} parameters, {network['epochs']} epochs, "
        f"seed {network['seed']}, SHA-256 {network['sha256'][:16]}…"
    )


def _decision(decision: Found) -> str:
    rival = f", held against version {decision['champion']}" if decision["champion"] else ""
    return (
        f"{'accepted' if decision['accepted'] else 'rejected'} by {decision['rules']} rules{rival}; accuracy "
        f"{decision['accuracy']:.1%} on {decision['test_images']:,} test images"
    )


def _release(release: Found) -> str:
    state = ["published" if release["published"] else "not published any more"]
    state += ["champion"] * release["champion"]
    state += ["its files are NOT those that were registered"] * (release["unchanged"] is False)
    return ", ".join(state)


def _requests(requests: Found) -> str:
    span = f", {requests['first']} to {requests['last']}" if requests["logged"] else ""
    return f"{requests['logged']:,} in the log{span}"


def _feedback(feedback: Found | None) -> str:
    if feedback is None:
        return "none"
    low, high = feedback["interval"]
    return f"accuracy {feedback['accuracy']:.1%} ({low:.1%} to {high:.1%}) of {feedback['images']:,} requests"
