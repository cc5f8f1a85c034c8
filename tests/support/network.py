"""Which connections the NetworkPolicies of an overlay let through: what a network plugin does with them."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.manifests import Object, pods

OWN = "own"  # the namespace of the overlay


@dataclass(frozen=True)
class Peer:
    """One end of a connection."""

    labels: dict[str, str]
    namespace: str = OWN


def of(objects: list[Object], owner: str) -> tuple[Peer, dict[str, int]]:
    """The pods of a workload, such as "Deployment/mlflow", and their ports by name."""
    pod = next(pod for pod in pods(objects) if pod.owner == owner)
    ports = {p["name"]: p["containerPort"] for c in pod.containers for p in c.get("ports", [])}
    return Peer(pod.labels), ports


def reaches(objects: list[Object], source: Peer, owner: str, port: int) -> bool:
    """Whether both sides' policies let a connection of `source` to a port of a workload through."""
    target, ports = of(objects, owner)
    asked = {port, *(name for name, number in ports.items() if number == port)}
    out = source.namespace != OWN or _open(objects, "Egress", source, target, asked)
    return out and _open(objects, "Ingress", target, source, asked)


def leaves(objects: list[Object], source: Peer, port: int, where: Peer | None = None) -> bool:
    """Whether a pod of the overlay gets out to a port: of another pod, or of any address."""
    return _open(objects, "Egress", source, where, {port})


def _open(objects: list[Object], way: str, about: Peer, other: Peer | None, ports: set[int | str]) -> bool:
    specs = [o["spec"] for o in objects if o["kind"] == "NetworkPolicy"]
    mine = [s for s in specs if way in s["policyTypes"] and _is(s["podSelector"], about.labels)]
    side = "from" if way == "Ingress" else "to"
    return not mine or any(
        (not rule.get("ports") or ports & {p["port"] for p in rule["ports"]})
        and (side not in rule or any(_is_peer(peer, other) for peer in rule[side]))
        for spec in mine
        for rule in spec.get(way.lower(), [])
    )


def _is_peer(peer: Object, other: Peer | None) -> bool:
    if other is None:
        return False
    name = {"kubernetes.io/metadata.name": other.namespace}
    inside = _is(peer["namespaceSelector"], name) if "namespaceSelector" in peer else other.namespace == OWN
    return inside and _is(peer.get("podSelector", {}), other.labels)


def _is(selector: Object, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, f"{selector} is more than this understands"
    return selector.get("matchLabels", {}).items() <= labels.items()
