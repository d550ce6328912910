"""Models that go to other libraries, and come back: all go through what `layers` has."""
