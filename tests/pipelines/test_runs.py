from pergola.pipelines.local.runs import _new_id


def test_ids_are_in_the_order_of_runs():
    """Two runs that begin within a second: the later one is the last."""
    ids = [_new_id(1_800_000_000 + i / 1000) for i in range(2000)]
    assert ids == sorted(ids) and len(set(ids)) == 2000
    assert ids[0].startswith("20270115-080000-0000")
