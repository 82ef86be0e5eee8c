"""Find better params and say how far they can be trusted; no stage depends on it, and none of its state is the pipeline's."""
