"""The soak in small: many kinds of faults at once, and a curve of the memory."""

import re
from xml.etree import ElementTree

from benchmarks import soak


def test_where_nothing_fails_each_item_is_answered_once():
    _, listed = soak.run(20, faults=0.0)
    assert listed == 0


def test_after_runs_were_killed_two_at_once_a_resumed_one_leaves_each_answer_once():
    soak.killed(40, kills=5)


def test_the_curve_is_a_picture_from_the_first_second_to_the_last():
    memory = soak.Memory([(0.0, 100.0), (5.0, 200.0), (10.0, 150.0)])
    drawn = soak.picture(memory, "title")
    ElementTree.fromstring(drawn)
    (points,) = re.findall(r'points="([^"]+)"', drawn)
    heights = [float(point.split(",")[1]) for point in points.split()]
    assert heights[1] < heights[2] < heights[0]
    assert "title" in drawn
    assert ">10 s<" in drawn
    assert ">250 MB<" in drawn
