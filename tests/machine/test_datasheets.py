"""What datasheets say of a GPU."""

from __future__ import annotations

from quietmind.machine.datasheets import datasheet, datasheet_like


def test_a_gpu_is_known_by_the_words_that_people_use() -> None:
    assert datasheet_like("RTX 5090") == datasheet("NVIDIA GeForce RTX 5090")
    assert datasheet_like("rtx 6000 ada") == datasheet("RTX 6000 Ada Generation")
    assert datasheet_like("RTX 5090").bandwidth_bytes_per_s == 1792e9


def test_of_a_gpu_that_nobody_knows_nothing_is_said() -> None:
    assert datasheet_like("Foo 9000").bandwidth_bytes_per_s is None
    assert datasheet_like("").bandwidth_bytes_per_s is None
