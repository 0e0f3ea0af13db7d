"""How tests wait: for what happens, never for so long. No other test reads a clock or sleeps.

A busy machine only makes a test slower. What never comes is ended by pytest's own timeout, which is
far above anything that a test takes.
"""

import cProfile
import logging
import signal
import time


def look_again():
    """Between two looks at another process."""
    time.sleep(0.02)


def wait_for(condition, process=None):
    """Until the condition holds, as long as the process runs whose work it is."""
    while not condition():
        assert process is None or process.is_alive()
        look_again()


def next_second():
    """W&B names its folders by the second."""
    now = int(time.time())
    wait_for(lambda: int(time.time()) != now)


def take_time(seconds):
    """For what should be slow; nothing may depend on how slow."""
    time.sleep(seconds)


def count_calls(work):
    """Function calls of some work: what it costs, whatever else the machine does."""
    profile = cProfile.Profile()
    profile.runcall(work)
    return sum(entry.callcount for entry in profile.getstats())


class _Hold(logging.Handler):
    def __init__(self, texts):
        super().__init__()
        self.texts = texts

    def emit(self, record):
        if any(text in record.getMessage() for text in self.texts):
            stop = signal.getsignal(signal.SIGTERM).__self__
            wait_for(lambda: stop.requested)


def hold_at(texts):
    """From a message with one of these texts on, this training waits until it is told to stop.

    So whoever stops it comes neither too early nor too late.

    Args:
        texts: separated by commas; "" holds nowhere.
    """
    if texts:
        logging.getLogger("kdbench").addHandler(_Hold(texts.split(",")))
        logging.getLogger("kdbench").setLevel(logging.INFO)
