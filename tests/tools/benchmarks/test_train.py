"""The lower bound of a training step."""

from tools.benchmarks import train, work


def test_the_lower_bound_is_operations_over_their_rate_and_bytes_over_theirs():
    rates = {"matrix product, float32, Paddle": 2.0, "matrix product, float32, oneDNN": 10.0, "copy of memory": 5.0}
    bound = train.lower_bound(rates, work.Work(100, 20), work.Work(100, 10))
    assert bound == {"float32": {"compute_seconds": 10.0, "memory_seconds": 4.0}}
