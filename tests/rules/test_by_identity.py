"""What was made of an object is found again for that object, and for no other."""

from collections.abc import Callable

from tq.by_identity import MOST, ByIdentity


class Named:
    """Equal to any other of its kind, so that only being the same tells two apart."""

    def __init__(self, name: int) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named)

    def __hash__(self) -> int:
        return 0


def noting(made: list[int]) -> Callable[[Named], int]:
    """Makes an object's name of it, and notes that."""

    def make(named: Named) -> int:
        made.append(named.name)
        return named.name

    return make


def test_it_is_made_once_for_each_object() -> None:
    made: list[int] = []
    known = ByIdentity[Named, int](noting(made))
    two = [Named(1), Named(2)]

    assert [known.get(named) for named in two * 3] == [1, 2] * 3
    assert made == [1, 2]


def test_nobody_is_taken_for_an_object_that_is_gone_and_had_the_same_number() -> None:
    known = ByIdentity[Named, int](lambda named: named.name)

    assert [known.get(Named(name)) for name in range(3 * MOST)] == list(range(3 * MOST))


def test_of_very_many_objects_not_all_is_kept() -> None:
    made: list[int] = []
    known = ByIdentity[Named, int](noting(made))
    many = [Named(name) for name in range(MOST + 1)]

    for named in [*many, many[-1], many[0]]:
        known.get(named)

    assert made == [*range(MOST + 1), 0]
