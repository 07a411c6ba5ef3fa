"""For every test."""

import asyncio

# pytest-asyncio asks for the current event loop before its first test, which
# in Python 3.11 makes one that nobody closes: a ResourceWarning, and so an
# error, in whatever test the garbage collector runs. Having set one, even
# None, there is nothing to make.
asyncio.set_event_loop(None)
