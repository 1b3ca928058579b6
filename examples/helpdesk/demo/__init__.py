"""The help desk's demonstration: a real load from outside, a killed worker, and the proof."""
