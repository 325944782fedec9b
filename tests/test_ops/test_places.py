"""Places of a sequence, evenly spaced."""
from hypothesis import given
from hypothesis import strategies as st

from cyborgs_plugin.ops.places import evenly_spaced


@given(st.integers(0, 500), st.integers(1, 50))
def test_laws_of_places(total, count):
    places = evenly_spaced(total, count)
    assert len(places) == min(total, count)
    assert places == sorted(set(places))
    assert all(0 <= place < total for place in places)
    # with both borders of the sequence, steps differ by one at most
    steps = {b - a for a, b in zip(places, [*places[1:], total])}
    assert not steps or max(steps) - min(steps) <= 1


def test_known_places():
    assert evenly_spaced(10, 4) == [0, 2, 5, 7]
    assert evenly_spaced(3, 9) == [0, 1, 2]
