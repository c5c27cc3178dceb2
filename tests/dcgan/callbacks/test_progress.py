import io

from dcgan.callbacks.progress import ProgressLine
from tests.comparisons import record


def test_progress_is_one_line_that_says_all(capsys):
    stream = io.StringIO()
    ProgressLine(8, 1500, stream)(record(120))
    assert stream.getvalue() == (
        "epoch 1/8  step 120/1500  loss D 1.000 G 0.700  D(x) 0.60 D(G(z)) 0.40  100 images/s  ETA 1:02:05\n"
    )


def test_progress_rewrites_its_line_on_a_terminal_and_ends_it_at_the_end():
    stream = io.StringIO()
    stream.isatty = lambda: True
    line = ProgressLine(1, 2, stream)
    line(record(1))
    line(record(2))
    written = stream.getvalue()
    assert written.count("\r") == 2 and written.count("\n") == 1 and written.endswith("\n")
