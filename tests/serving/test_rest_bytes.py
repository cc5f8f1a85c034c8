"""How many bytes the REST server holds at once."""

import gzip

import pytest

from pergola.serving.server.config.errors import BadRequest, Overloaded
from pergola.serving.server.rest.http import ByteBudget, HeldBytes, _gunzip

MIB = 1 << 20


def test_bodies_share_one_budget_and_give_it_back():
    budget = ByteBudget(10)
    with HeldBytes(budget) as first:
        first.add(6)
        with pytest.raises(Overloaded), HeldBytes(budget) as second:
            second.add(4)
            second.add(1)
        with HeldBytes(budget) as third:
            third.add(4)
    with HeldBytes(budget) as whole:
        whole.add(10)


def test_an_inflated_body_counts_while_it_is_inflated():
    body = gzip.compress(bytes(40 * MIB))
    with HeldBytes(ByteBudget(20 * MIB)) as held, pytest.raises(Overloaded):
        _gunzip(body, 100 * MIB, held)
    with HeldBytes(ByteBudget(40 * MIB)) as held:
        assert _gunzip(body, 40 * MIB, held) == bytes(40 * MIB)
    with HeldBytes(ByteBudget(80 * MIB)) as held, pytest.raises(BadRequest, match="larger than 41943039"):
        _gunzip(body, 40 * MIB - 1, held)


@pytest.mark.parametrize("body", [b"", b"no gzip", gzip.compress(b"hello", mtime=0)[:-9]])
def test_a_broken_gzip_body_is_one_sentence(body):
    with HeldBytes(ByteBudget(MIB)) as held, pytest.raises(BadRequest, match=r"The gzip body .*"):
        _gunzip(body, MIB, held)
