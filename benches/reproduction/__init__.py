"""Published figures of continual learning, and ours beside them: `make reproduce`."""
